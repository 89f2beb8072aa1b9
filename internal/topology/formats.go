package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/jsapi"
)

// Formats is the newest version of the stored documents' formats that this program writes. It reads
// this one and the one before.
const Formats = 1

// formatsForTests overrides Formats in a build: -ldflags "-X
// …/internal/topology.formatsForTests=2". Only tests of upgrades set it.
var formatsForTests = ""

// BuildFormats returns the version of this build: Formats.
func BuildFormats() int {
	if n, err := strconv.Atoi(formatsForTests); err == nil {
		return n
	}
	return Formats
}

// Version returns the version of the formats that is read and written, at most.
func (t Topology) Version() int {
	if t.Formats != 0 {
		return t.Formats
	}
	return BuildFormats()
}

// MarkKey is the key in relay_owners of the mark. The mark has no TTL. It lies beside the members'
// records because one stream gives one order: it is always clear which came first, a member or the
// mark that does not suit it. And a backup takes relay_owners last, so that no document of a backup
// is newer than its mark.
const MarkKey = "formats"

// Mark records which formats the stored documents may have.
type Mark struct {
	// Formats is the version that every stored document may use; every running relay reads it.
	Formats int `json:"formats"`
	// Raising, if not 0, is the version that a relay is about to raise Formats to. A relay that
	// does not know it must not start any more.
	Raising int `json:"raising,omitempty"`
	// Restoring is when a restore began that is not yet complete: no relay starts on half a store.
	// It is not stored with the mark, which is deleted and restored as well (BeginRestore).
	Restoring time.Time `json:"-"`
	// Changed: the restore has begun to delete or to make something.
	Changed bool `json:"-"`
	// Restored is when a backup was last restored. A relay whose clock is behind that would give
	// out numbers a second time.
	Restored time.Time `json:"restored,omitzero"`
	// Ahead is how far, in microseconds, sequences of events are ahead of the clock: what was
	// published after a backup and lost with its store must not be given out again after the
	// restore.
	Ahead int64 `json:"ahead,omitempty"`

	revision uint64
}

// ReadMark returns the mark as the stream's leader has it: a follower may not yet have what was
// written last. A store without a mark, or without relay_owners, has version 1: a power cut in the
// first second of a store may leave documents and no mark.
func (t Topology) ReadMark(ctx context.Context, js jetstream.JetStream) (Mark, error) {
	m := Mark{Formats: 1}
	there, err := t.readSign(ctx, js)
	if err != nil {
		return Mark{}, fmt.Errorf("look whether a backup is being restored: %w", err)
	}
	if there != nil {
		m.Restoring, m.Changed = there.since, there.changed
	}
	raw, revision, err := t.leaderGet(ctx, js, MarkKey)
	if err != nil {
		return Mark{}, fmt.Errorf("read the mark of the stored formats: %w", err)
	}
	if raw == nil {
		m.revision = revision
		return m, nil
	}
	if err := json.Unmarshal(raw, &m); err != nil || m.Formats < 1 {
		return Mark{}, refused("the mark of the stored formats %w: it cannot be read", ErrNewer)
	}
	m.revision = revision
	return m, nil
}

// fresh reports whether there was never a mark and nothing is stored that could have an older
// version's formats: the store is new. Its streams may be there, made by a relay that came no
// further.
func (m Mark) fresh(findings []Finding) bool {
	return m.revision == 0 && !slices.ContainsFunc(findings, func(f Finding) bool { return f.Messages > 0 })
}

// EffectiveMark returns the mark as it counts for this relay: a new store begins with its version.
func (t Topology) EffectiveMark(m Mark, findings []Finding) Mark {
	if m.fresh(findings) {
		m.Formats = t.Version()
	}
	return m
}

// A request whose failure may pass is repeated, for at most 5 s.
const (
	passingPause = 50 * time.Millisecond
	passingTurns = 100
)

// whileAnswered asks again while the response is one of JetStream's errors.
func whileAnswered(ctx context.Context, code jetstream.ErrorCode, ask func() error) error {
	err := ask()
	for turn := 1; jsapi.Code(err) == code && turn < passingTurns; turn++ {
		if !backoff.Sleep(ctx, passingPause) {
			return ctx.Err()
		}
		err = ask()
	}
	return err
}

// WriteMark stores the mark over the one that it was read from and returns it as it then stands;
// jetstream.ErrKeyExists if another was stored meanwhile.
func (t Topology) WriteMark(ctx context.Context, js jetstream.JetStream, m Mark) (Mark, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return Mark{}, fmt.Errorf("encode the mark of the stored formats: %w", err)
	}
	msg := &nats.Msg{Subject: t.ownersSubject(MarkKey), Data: raw}
	condition := jetstream.WithExpectLastSequencePerSubject(m.revision)
	var ack *jetstream.PubAck
	// A replicated stream responds so to a conditional write while another of the same subject is
	// on its way to the followers. That one may still fail: only when it has ended is it known
	// whether the condition holds.
	err = whileAnswered(ctx, jetstream.JSErrCodeStreamWrongLastSequenceConstant, func() (err error) {
		ack, err = js.PublishMsg(ctx, msg, condition)
		return err
	})
	if jsapi.Code(err) == jetstream.JSErrCodeStreamWrongLastSequence {
		err = fmt.Errorf("%w: %w", jetstream.ErrKeyExists, err)
	}
	if err != nil {
		return Mark{}, fmt.Errorf("store the mark of the stored formats: %w", err)
	}
	m.revision = ack.Sequence
	return m, nil
}

// Refuse returns why a relay of a version must not run on a store with this mark, nil if it may.
func (m Mark) Refuse(version int) error {
	switch {
	case !m.Restoring.IsZero() && !m.Changed:
		return refused("%w since %s, and has changed nothing yet: wait for its end. "+
			"If it did not end well, run relay restore again: without --replace it changes nothing that there is, "+
			"and relays start again",
			ErrRestoring, m.Restoring.UTC().Format(time.RFC3339))
	case !m.Restoring.IsZero():
		return refused("%w since %s: wait for its end, or run relay restore again with --replace if it did not end "+
			"well",
			ErrRestoring, m.Restoring.UTC().Format(time.RFC3339))
	case m.Formats > version:
		return refused("the store %w: its documents may have formats version %d, this program knows up to version %d. "+
			"Start the newer release, or restore a backup made before the upgrade",
			ErrNewer, m.Formats, version)
	case m.Raising > version:
		return refused("the store %w: its formats are just being raised to version %d, this program knows up to "+
			"version %d. Start the newer release",
			ErrNewer, m.Raising, version)
	case m.Formats < version-1:
		return refused("the store has formats version %d, and this program reads versions %d and %d: "+
			"start a release in between first, and let it raise the version",
			m.Formats, version-1, version)
	case time.Now().Before(m.Restored):
		return refused("this machine's clock is behind %s, when a backup was restored: "+
			"event numbers come from the clock and would be given out a second time. Set the clock",
			m.Restored.UTC().Format(time.RFC3339))
	case m.Ahead < 0 || m.Ahead > maxAhead:
		return refused("the mark of the stored formats says that numbers of events run %d µs ahead of the clock, "+
			"which cannot be: restore a backup", m.Ahead)
	}
	return nil
}

func (t Topology) ownersSubject(key string) string { return "$KV." + t.Bucket(Owners) + "." + key }

// askTimeout bounds one request to the server.
const askTimeout = 5 * time.Second

// leaderGet returns the last value of a key of relay_owners as the stream's leader has it; nil if
// it has none, or there is no such bucket.
func (t Topology) leaderGet(ctx context.Context, js jetstream.JetStream, key string) ([]byte, uint64, error) {
	m, err := t.leaderMessage(ctx, js, key)
	return m.Data, m.Sequence, err
}

// leaderMessage is leaderGet with the time at which the value was stored.
func (t Topology) leaderMessage(
	ctx context.Context, js jetstream.JetStream, key string,
) (jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := jsapi.Get(ctx, js, "KV_"+t.Bucket(Owners), jsapi.Selection{Last: t.ownersSubject(key)})
	switch jsapi.Code(err) {
	case jetstream.JSErrCodeMessageNotFound, jetstream.JSErrCodeStreamNotFound:
		return jetstream.RawStreamMsg{}, nil
	}
	if err != nil {
		return jetstream.RawStreamMsg{}, err
	}
	if len(m.Header) > 0 && len(m.Data) == 0 { // the marker of a removed or expired key
		m.Data = nil
	}
	return m, nil
}

// info reads a stream's state, with the subjects of a filter, as its leader has it; false if there
// is no such stream.
func (t Topology) info(
	ctx context.Context, js jetstream.JetStream, stream, filter string,
) (info jetstream.StreamInfo, there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = jsapi.Call(ctx, js, "STREAM.INFO."+stream, map[string]string{"subjects_filter": filter}, &info)
	if jsapi.Code(err) == jetstream.JSErrCodeStreamNotFound {
		return info, false, nil
	}
	return info, err == nil, err
}
