package jsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// MaxLastOf is up to how many subjects LastOf may find.
const MaxLastOf = 1024

// ErrTooMany is returned by LastOf if it would find more than MaxLastOf subjects.
var ErrTooMany = errors.New("too many subjects")

// lastOfBytes bounds one response: the server sends whole messages, and more wait in the client than
// are read. It ends behind the message that exceeds it.
const lastOfBytes = 4 << 20

// lastOf is the request for the last messages of some subjects.
type lastOf struct {
	Subjects []string `json:"multi_last"`
	From     uint64   `json:"seq,omitempty"` // what is below has been read
	UpTo     uint64   `json:"up_to_seq,omitempty"`
	MaxBytes int      `json:"max_bytes"`

	found bool // some message has come
}

// LastOf calls each with sequence, subject, time and data of the last message of each subject that is not above upTo
// (0: the end of the stream); subjects without one are left out. Any copy of the stream may respond, which must allow
// direct reads. The subjects may have wildcards, but no more than MaxLastOf may be found (ErrTooMany). If it returns an
// error, each may have been called for some of them.
func LastOf(
	ctx context.Context, js jetstream.JetStream, stream string, subjects []string, upTo uint64,
	each func(seq uint64, subject string, at time.Time, data []byte),
) error {
	request := lastOf{Subjects: subjects, UpTo: upTo, MaxBytes: lastOfBytes}
	for more := true; more; {
		var err error
		if more, err = request.send(ctx, js, stream, each); err != nil {
			return fmt.Errorf("ask %s for the last messages of %d subjects: %w", stream, len(subjects), err)
		}
	}
	return nil
}

// send sends the request and takes the response. If there is more, it sets the request to what is left.
func (r *lastOf) send(
	ctx context.Context, js jetstream.JetStream, stream string,
	each func(seq uint64, subject string, at time.Time, data []byte),
) (more bool, err error) {
	request, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	answers := js.Conn().NewInbox()
	sub, err := js.Conn().SubscribeSync(answers)
	if err != nil {
		return false, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := js.Conn().PublishRequest(prefix(js)+"DIRECT.GET."+stream, answers, request); err != nil {
		return false, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return false, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
			if err != nil {
				return false, err
			}
			at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
			if err != nil {
				return false, err
			}
			r.found = true
			each(seq, m.Header.Get(jetstream.SubjectHeader), at, m.Data)
		case "204":
			if lost, err := sub.Dropped(); err != nil || lost > 0 {
				return false, fmt.Errorf("%d messages of the answer were lost: %w",
					lost, errors.Join(err, nats.ErrSlowConsumer))
			}
			return r.rest(m.Header)
		case "404":
			if !r.found {
				return false, nil
			}
			return false, jetstream.ErrMsgNotFound // one has gone while it was read
		case "413":
			return false, ErrTooMany
		case "503":
			return false, nats.ErrNoResponders
		default:
			return false, fmt.Errorf("status %s: %s", status, m.Header.Get("Description"))
		}
	}
}

// rest reads the end of a response: whether the server has left messages out, and from where on.
func (r *lastOf) rest(end nats.Header) (more bool, err error) {
	var numbers [3]uint64
	for i, name := range []string{"Nats-Num-Pending", "Nats-Last-Sequence", "Nats-UpTo-Sequence"} {
		if numbers[i], err = strconv.ParseUint(end.Get(name), 10, 64); err != nil {
			return false, fmt.Errorf("the answer's end has no %s: %w", name, err)
		}
	}
	left, last, upTo := numbers[0], numbers[1], numbers[2]
	if left > 0 && last < r.From {
		return false, fmt.Errorf("the server leaves out %d messages", left)
	}
	r.From, r.UpTo = last+1, upTo
	return left > 0, nil
}
