package topology

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
)

// While a backup is being put back there is a stream that says so, beside those that are deleted and made meanwhile: at no moment does a
// relay find a part of a store, or an empty one in the place of that which was, without finding the sign. It stays when the restore dies.
// That neither a relay nor a restore misses the other is seen to by their order: a relay stores its record and then looks for the sign, a
// restore makes the sign and then looks for records.

// Fields of the sign's metadata: which restore it is of, and the Mark.Ahead of the store that is being replaced.
const (
	restorerKey = "relay-restore"
	aheadKey    = "relay-ahead"
)

// RestoreSign is the name of the stream that is there while a backup is put back. It holds nothing.
func (t Topology) RestoreSign() string { return t.Prefix + "_restore" }

// restoring answers when the restore began that is under way, or was cut off; the zero time if there is none.
func (t Topology) restoring(ctx context.Context, js jetstream.JetStream) (time.Time, error) {
	var sign struct {
		Error   *jetstream.APIError `json:"error"`
		Created time.Time           `json:"created"`
	}
	if err := t.ask(ctx, js, "STREAM.INFO."+t.RestoreSign(), struct{}{}, &sign); err != nil {
		return time.Time{}, err
	}
	if sign.Error == nil {
		return sign.Created, nil
	}
	if sign.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound {
		return time.Time{}, nil
	}
	return time.Time{}, sign.Error
}

// Restoring is the sign of one restore.
type Restoring struct {
	t      Topology
	js     jetstream.JetStream
	config jetstream.StreamConfig
	// Resumed says that the sign of another restore was there, which has left who knows what behind.
	Resumed bool
	// Ahead is the Mark.Ahead that the restores before this one have kept, 0 for none.
	Ahead int64
}

// signTurns bounds how often the sign's stream is asked for without an answer, of 5 s each.
const signTurns = 4

// BeginRestore makes the sign. If there is one already the answer is ErrRestoring, or, to take over what another has left behind, that one
// made our own.
func (t Topology) BeginRestore(ctx context.Context, js jetstream.JetStream, takeOver bool) (*Restoring, error) {
	r := &Restoring{t: t, js: js, config: jetstream.StreamConfig{
		Name: t.RestoreSign(), Description: "A backup is being put back: no relay starts", Subjects: []string{t.Prefix + ".restore"},
		Storage: jetstream.FileStorage, Replicas: t.Replicas, Metadata: map[string]string{restorerKey: relay.NewID()},
	}}
	create := func() error { _, err := js.CreateStream(ctx, r.config); return err }
	err := whileAnswered(ctx, codeNoPeers, create)
	// The copies of a new stream may take longer to elect a leader than an answer is waited for. The same stream may be created again.
	for turn := 1; errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && turn < signTurns; turn++ {
		err = whileAnswered(ctx, codeNoPeers, create)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		if !takeOver {
			since, err := t.restoring(ctx, js)
			if err != nil {
				return nil, err
			}
			if since.IsZero() { // it has just ended
				since = time.Now()
			}
			return nil, Mark{Restoring: since}.Refuse(t.Version())
		}
		r.Resumed = true
		if r.Ahead, err = t.keptAhead(ctx, js); err != nil {
			return nil, err
		}
		r.config.Metadata[aheadKey] = strconv.FormatInt(r.Ahead, 10)
		_, err = js.UpdateStream(ctx, r.config)
	}
	if err != nil {
		return nil, fmt.Errorf("keep relays from starting: %w", err)
	}
	return r, nil
}

// keptAhead reads what Keep has stored.
func (t Topology) keptAhead(ctx context.Context, js jetstream.JetStream) (int64, error) {
	sign, err := js.Stream(ctx, t.RestoreSign())
	if err != nil {
		return 0, fmt.Errorf("look at what the restore before has kept: %w", err)
	}
	text, ok := sign.CachedInfo().Config.Metadata[aheadKey]
	if !ok {
		return 0, nil
	}
	kept, err := strconv.ParseInt(text, 10, 64)
	if err != nil || kept < 0 {
		return 0, refused("the stream %s is not the relay's: its metadata %s is %q, not a number of microseconds. Delete it if no restore is under way", t.RestoreSign(), aheadKey, text)
	}
	return kept, nil
}

// Keep stores in the sign how far the numbers ran ahead of the clock in a store that is about to be deleted: whichever restore ends well
// finds it there.
func (r *Restoring) Keep(ctx context.Context, ahead int64) error {
	if err := r.Ours(ctx); err != nil {
		return err
	}
	r.Ahead = max(r.Ahead, ahead)
	r.config.Metadata[aheadKey] = strconv.FormatInt(r.Ahead, 10)
	if _, err := r.js.UpdateStream(ctx, r.config); err != nil {
		return fmt.Errorf("keep what the next restore must know: %w", err)
	}
	return nil
}

// ErrTakenOver says that another restore goes on where this one was.
var ErrTakenOver = errors.New("another restore has begun meanwhile")

// Ours answers ErrTakenOver if the sign is another restore's by now.
func (r *Restoring) Ours(ctx context.Context) error {
	sign, err := r.js.Stream(ctx, r.config.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return ErrTakenOver
	case err != nil:
		return fmt.Errorf("look whether another restore has begun: %w", err)
	case sign.CachedInfo().Config.Metadata[restorerKey] != r.config.Metadata[restorerKey]:
		return ErrTakenOver
	}
	return nil
}

// End takes the sign away: relays may start.
func (r *Restoring) End(ctx context.Context) error {
	if err := r.Ours(ctx); err != nil {
		return err
	}
	if err := r.js.DeleteStream(ctx, r.config.Name); err != nil {
		return fmt.Errorf("let relays start: %w", err)
	}
	return nil
}
