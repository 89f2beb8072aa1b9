package jsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// MaxLastOf is up to how many subjects LastOf may find.
const MaxLastOf = 1024

// LastOf returns the sequence of the last message of each subject that is not above upTo (0: the
// end of the stream); subjects without one are left out. Any copy of the stream may answer, which
// must allow direct reads. The subjects may have wildcards, but no more than MaxLastOf may be found.
func LastOf(ctx context.Context, js jetstream.JetStream, stream string, subjects []string, upTo uint64) (map[string]uint64, error) {
	fail := func(err error) (map[string]uint64, error) {
		return nil, fmt.Errorf("ask %s for the last messages of %d subjects: %w", stream, len(subjects), err)
	}
	request, err := json.Marshal(struct {
		Last []string `json:"multi_last"`
		UpTo uint64   `json:"up_to_seq,omitempty"`
	}{subjects, upTo})
	if err != nil {
		return fail(err)
	}
	answers := js.Conn().NewInbox()
	sub, err := js.Conn().SubscribeSync(answers)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := js.Conn().PublishRequest(prefix(js)+"DIRECT.GET."+stream, answers, request); err != nil {
		return fail(err)
	}
	found := make(map[string]uint64, len(subjects))
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return fail(err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
			if err != nil {
				return fail(err)
			}
			found[m.Header.Get(jetstream.SubjectHeader)] = seq
		case "204":
			return found, nil
		case "404":
			if len(found) == 0 {
				return found, nil
			}
			return fail(jetstream.ErrMsgNotFound) // one has gone while it was read
		case "503":
			return fail(nats.ErrNoResponders)
		default:
			return fail(fmt.Errorf("status %s: %s", status, m.Header.Get("Description")))
		}
	}
}
