package topology

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
)

// While a backup is being restored, a stream of its own, the sign, shows it. It lies beside the
// streams that are deleted and made meanwhile. So a relay never finds a part of a store, or an
// empty one in its place, without finding the sign.
//
// The sign stays when the restore dies. It gets a message before anything is changed, which shows
// of a dead restore whether it has changed anything. The message's subject holds how far the
// numbers of events ran ahead in the store that is about to be deleted. Messages are only added:
// restores that take over from one another lose none.
//
// A relay and a restore cannot miss each other because of their order. A relay stores its record
// and then looks for the sign; a restore makes the sign and then looks for records.

// restorerKey is the field of the sign's metadata that holds which restore it is of.
const restorerKey = "relay-restore"

// maxAhead bounds Mark.Ahead, in microseconds: a hundred years. More is no clock's fault.
const maxAhead = int64(100 * 365 * 24 * time.Hour / time.Microsecond)

// RestoreSign is the name of the stream that is there while a backup is restored.
func (t Topology) RestoreSign() string { return t.Prefix + "_restore" }

func (t Topology) restoreSubject(token string) string { return t.Prefix + ".restore." + token }

// sign is the state of a restore's sign.
type sign struct {
	since    time.Time // when it was made
	restorer string    // of which restore it is
	changed  bool      // something may have been deleted or made
	ahead    int64     // the most that was kept
}

// readSign returns the state of the sign; nil if there is none.
func (t Topology) readSign(ctx context.Context, js jetstream.JetStream) (*sign, error) {
	info, there, err := t.info(ctx, js, t.RestoreSign(), ">")
	if err != nil || !there {
		return nil, err
	}
	s := &sign{since: info.Created, restorer: info.Config.Metadata[restorerKey], changed: info.State.Msgs > 0}
	foreign := func(why string) error {
		return refused("stream %s %w and is left alone: %s. Delete or rename it if nobody needs it, or choose "+
			"another RELAY_NATS_PREFIX",
			t.RestoreSign(), ErrForeign, why)
	}
	if s.restorer == "" {
		return nil, foreign("its metadata name no restore")
	}
	for subject := range info.State.Subjects {
		kept, err := strconv.ParseInt(strings.TrimPrefix(subject, t.restoreSubject("")), 10, 64)
		if err != nil || kept < 0 || kept > maxAhead {
			return nil, foreign(fmt.Sprintf("it holds the subject %q", subject))
		}
		s.ahead = max(s.ahead, kept)
	}
	return s, nil
}

// Restoring is the sign of one restore.
type Restoring struct {
	t      Topology
	js     jetstream.JetStream
	config jetstream.StreamConfig
	// Resumed: another restore has begun to change the store, and may have left anything behind.
	Resumed bool
}

// signTurns bounds how often the sign's stream is requested without a response, for 5 s each.
const signTurns = 4

// BeginRestore makes the sign. If there is one already, it becomes ours, unless its restore has
// begun to change the store. Then BeginRestore returns ErrRestoring; with takeOver, which continues
// what that one has left behind, it takes the sign as well.
func (t Topology) BeginRestore(ctx context.Context, js jetstream.JetStream, takeOver bool) (*Restoring, error) {
	r := &Restoring{t: t, js: js, config: jetstream.StreamConfig{
		Name: t.RestoreSign(), Description: "A backup is being put back: no relay starts",
		Subjects: []string{t.restoreSubject("*")}, Storage: jetstream.FileStorage, Replicas: t.Replicas,
		MaxMsgsPerSubject: 1, Metadata: map[string]string{restorerKey: relay.NewID()},
	}}
	err := r.begin(ctx, takeOver)
	if err == nil {
		return r, nil
	}
	if errors.Is(err, ErrRefused) { // by what another has made
		return nil, err
	}
	// The sign may be there all the same.
	withdrawing, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	return nil, fmt.Errorf("keep relays from starting: %w", errors.Join(err, r.Withdraw(withdrawing)))
}

func (r *Restoring) begin(ctx context.Context, takeOver bool) error {
	// Waited for also when ctx ends meanwhile: a sign whose making was broken off could appear
	// later.
	create := func() error { _, err := r.js.CreateStream(context.WithoutCancel(ctx), r.config); return err }
	err := whileAnswered(ctx, codeNoPeers, create)
	// The copies of a new stream may take longer to elect a leader than the time-out of a request.
	// The same stream may be created again.
	for turn := 1; errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && turn < signTurns; turn++ {
		err = whileAnswered(ctx, codeNoPeers, create)
	}
	if err == nil {
		return ctx.Err()
	}
	if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return err
	}
	there, err := r.t.readSign(ctx, r.js)
	if err != nil {
		return err
	}
	if there == nil { // it has just ended
		there = &sign{since: time.Now(), changed: true}
		takeOver = false
	}
	if there.changed && !takeOver {
		return Mark{Restoring: there.since, Changed: true}.Refuse(r.t.Version())
	}
	r.Resumed = there.changed
	_, err = r.js.UpdateStream(ctx, r.config)
	return err
}

// Change must be called before the first change of the store, whose numbers of events run ahead of
// the clock by ahead microseconds: the restore that ends well must know.
func (r *Restoring) Change(ctx context.Context, ahead int64) error {
	if err := r.Ours(ctx); err != nil {
		return err
	}
	if ahead < 0 || ahead > maxAhead {
		return fmt.Errorf("the store's mark says that numbers of events run %d µs ahead of the clock, which cannot be",
			ahead)
	}
	if _, err := r.js.Publish(ctx, r.t.restoreSubject(strconv.FormatInt(ahead, 10)), nil,
		jetstream.WithExpectStream(r.config.Name)); err != nil {
		return fmt.Errorf("say that the store is being changed: %w", err)
	}
	return r.Ours(ctx)
}

// Ahead returns the highest value that Change was called with since the sign was made.
func (r *Restoring) Ahead(ctx context.Context) (int64, error) {
	there, err := r.look(ctx)
	if err != nil {
		return 0, err
	}
	return there.ahead, nil
}

// ErrTakenOver reports that another restore has taken over from this one.
var ErrTakenOver = errors.New("another restore has begun meanwhile")

// Ours returns ErrTakenOver if the sign is another restore's by now.
func (r *Restoring) Ours(ctx context.Context) error {
	_, err := r.look(ctx)
	return err
}

func (r *Restoring) look(ctx context.Context) (*sign, error) {
	there, err := r.t.readSign(ctx, r.js)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look whether another restore has begun: %w", err)
	case there == nil, there.restorer != r.config.Metadata[restorerKey]:
		return nil, ErrTakenOver
	}
	return there, nil
}

// Withdraw removes the sign if it is ours and no restore has changed anything under it.
func (r *Restoring) Withdraw(ctx context.Context) error {
	there, err := r.look(ctx)
	if errors.Is(err, ErrTakenOver) {
		return nil
	}
	if err != nil || there.changed {
		return err
	}
	return r.End(ctx)
}

// End removes the sign: relays may start.
func (r *Restoring) End(ctx context.Context) error {
	if err := r.Ours(ctx); err != nil {
		return err
	}
	if err := r.js.DeleteStream(ctx, r.config.Name); err != nil {
		return fmt.Errorf("let relays start: %w", err)
	}
	return nil
}
