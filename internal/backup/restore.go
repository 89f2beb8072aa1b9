package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/topology"
)

// ErrNotEmpty reports that there is something in the store already.
var ErrNotEmpty = errors.New("the store is not empty")

// ahead is how much further the numbers of events run ahead of the clock after each restore. Events that were published
// after the backup and lost with the store had numbers from the clocks of that time, or one above the order's last.
// None of them is given out again as long as those clocks did not differ from the present one by more than this.
const ahead = time.Hour

const (
	// nameFreeAfter is how long a server may take to give up a restore that was cut off, nameAgain
	// how often it is tried again until then.
	nameFreeAfter = 45 * time.Second
	nameAgain     = 250 * time.Millisecond
)

// codeNameInUse is JetStream's error code for a restore of a stream that is there (nats.go has no name for it).
const codeNameInUse = 10130

// Restore restores a backup. The store must be empty but for what a relay's first start makes; with replace it is
// emptied before. No relay may run on it. None starts while the restore is under way, or after one that failed and has
// deleted what was there. Nothing is touched before the backup has been read through and the keys were found to fit.
func Restore(ctx context.Context, c Config, dir string, replace bool) (Manifest, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return m, err
	}
	if err := c.suits(m); err != nil {
		return m, err
	}
	if err := m.verify(dir); err != nil {
		return m, err
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return m, fmt.Errorf("open JetStream: %w", err)
	}
	if err := c.idle(ctx, js); err != nil { // relays that run end when they see the sign
		return m, err
	}
	sign, err := c.Topology.BeginRestore(ctx, js, replace)
	if err != nil {
		return m, err
	}
	there, err := c.look(ctx, js, replace)
	if err != nil {
		return m, errors.Join(err, undone(ctx, sign.Withdraw))
	}
	if err := sign.Change(ctx, there.mark.Ahead); err != nil {
		return m, errors.Join(err, undone(ctx, sign.Withdraw))
	}
	if err := deleteAll(ctx, js, sign, there.streams); errors.Is(err, topology.ErrTakenOver) {
		return m, err
	} else if err != nil {
		return m, fmt.Errorf("%w; no relay starts on what is left: run restore again with --replace", err)
	}
	put, err := c.putAll(ctx, js, dir, m, sign)
	if err == nil {
		m.Ahead, err = c.finish(ctx, js, m, sign)
	}
	if err == nil {
		return m, nil
	}
	if errors.Is(err, topology.ErrTakenOver) { // by whom the streams may be that are there
		return m, err
	}
	if ours := undone(ctx, sign.Ours); errors.Is(ours, topology.ErrTakenOver) {
		return m, fmt.Errorf("%w: %w", ours, err)
	}
	undo := undone(ctx, func(ctx context.Context) error { return deleteAll(ctx, js, sign, put) },
		func(ctx context.Context) error { return allGone(ctx, js, m) })
	replaced := there.messages > 0 || sign.Resumed
	if undo == nil && !replaced {
		undo = undone(ctx, sign.End)
	}
	switch {
	case undo != nil:
		return m,
			fmt.Errorf("%w; and what was restored could not be removed again (%w): no relay starts on it, run "+
				"restore again with --replace", err, undo)
	case replaced: // a relay on an empty store would give out numbers of events a second time
		return m, fmt.Errorf("%w; what was restored has been removed again, and what was there before is deleted: "+
			"no relay starts until a restore ends well, run it again with --replace", err)
	}
	return m, fmt.Errorf("%w; what was restored has been removed again", err)
}

// undone undoes steps, until one fails, with time of their own: the usual reason for it is that ctx ended.
func undone(ctx context.Context, steps ...func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// suits returns an error if a backup must not be restored here, nil if it may.
func (c Config) suits(m Manifest) error {
	if m.Prefix != c.Topology.Prefix {
		return fmt.Errorf("the backup is of prefix %q, not %q: its streams keep their names, so set "+
			"RELAY_NATS_PREFIX to it", m.Prefix, c.Topology.Prefix)
	}
	if err := c.Sealer.CheckProof(m.place, m.proof); err != nil {
		if m.Keys == c.Fingerprint {
			return fmt.Errorf("%s or %s of the backup is damaged: they do not belong together: %w",
				manifestFile, proofFile, err)
		}
		return fmt.Errorf("%w: the backup needs the keys with fingerprint %s, those given have %s. "+
			"Set RELAY_ENCRYPTION_KEYS, or put the key file beside the data: %w",
			ErrKeys, m.Keys, c.Fingerprint, err)
	}
	if err := (topology.Mark{Formats: m.Formats, Ahead: c.aheadOf(m)}).Refuse(c.Topology.Version()); err != nil {
		return fmt.Errorf("the backup cannot be used by this release: %w", err)
	}
	if now := c.now(); now.Before(m.Ended) {
		return fmt.Errorf("this machine's clock says %s, which is before the backup was made (%s): set the clock; "+
			"the numbers of events come from it",
			now.Format(time.RFC3339), m.Ended.Format(time.RFC3339))
	}
	want := order(c.Topology)
	var have []string
	for _, s := range m.Streams {
		if !slices.Contains(want, s.Name) {
			return fmt.Errorf("the backup holds stream %s, which this release does not know: restore with the "+
				"release that made it (%s)", s.Name, m.Release)
		}
		have = append(have, s.Name)
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			return fmt.Errorf("the backup holds no %s: restore with the release that made it (%s)", name, m.Release)
		}
	}
	return nil
}

// aheadOf returns how far numbers of events, in microseconds, must run ahead of the clock after a backup is restored,
// as far as the backup and the caller know. It counts from the backup's time, not the present: so the numbers after a
// second restore of the same backup are above those after the first.
func (c Config) aheadOf(m Manifest) int64 {
	return max(int64(m.Sequence)-m.Ended.UnixMicro(), c.Ahead.Microseconds(), 0)
}

// idle returns an error while relays run on the store.
func (c Config) idle(ctx context.Context, js jetstream.JetStream) error {
	members, err := c.Topology.LiveMembers(ctx, js)
	if err != nil {
		return err
	}
	if len(members) > 0 && !c.Exclusive {
		return fmt.Errorf("relays run on this store (%s): stop them first", strings.Join(members, ", "))
	}
	return nil
}

// remains is what a restore finds: the streams that must be deleted, what is in them, and the mark that goes with them.
type remains struct {
	streams  []string
	messages uint64 // but for those of relay_owners, which is never empty
	mark     topology.Mark
}

// look returns what must be deleted, or an error if it may not be: a relay runs on it, or it holds
// something and must not be replaced.
func (c Config) look(ctx context.Context, js jetstream.JetStream, replace bool) (there remains, err error) {
	findings, err := c.Topology.Check(ctx, js)
	if err != nil {
		return there, err
	}
	if there.mark, err = c.Topology.ReadMark(ctx, js); err != nil {
		return there, err
	}
	if err := c.idle(ctx, js); err != nil {
		return there, err
	}
	owners := "KV_" + c.Topology.Bucket(topology.Owners)
	for _, f := range findings {
		switch f.State {
		case topology.StateForeign:
			return there, f.Refuse()
		case topology.StateMissing, topology.StateUnknown:
			continue
		case topology.StateOK, topology.StateDiffers, topology.StateChanged:
		}
		there.streams = append(there.streams, f.Stream)
		if f.Stream != owners {
			there.messages += f.Messages
		}
	}
	if there.messages > 0 && !replace {
		return there,
			fmt.Errorf("%w: it holds %d messages. Restore into an empty one, or say --replace to delete what is "+
				"there (take a backup of it first)",
				ErrNotEmpty, there.messages)
	}
	return there, nil
}

// putAll restores every stream, relay_owners first, for as long as the sign is ours. It returns what was made.
func (c Config) putAll(
	ctx context.Context, js jetstream.JetStream, dir string, m Manifest, sign *topology.Restoring,
) (made []string, err error) {
	streams := slices.Clone(m.Streams)
	slices.Reverse(streams) // owners were taken last
	for _, s := range streams {
		if err := sign.Ours(ctx); err != nil {
			return made, err
		}
		config := s.Config
		config.Replicas, config.Placement = c.Topology.Replicas, nil
		state, err := c.put(ctx, js, dir, s, config, sign)
		if !nameInUse(err) { // that one is somebody else's
			made = append(made, s.Name) // also if it failed: there may be half of it
		}
		if err != nil {
			return made, err
		}
		// What is older than the retention goes at once; nothing else may be missing.
		if state.LastSeq < s.LastSeq ||
			state.Messages < s.Messages && state.FirstSeq <= s.FirstSeq && config.MaxAge == 0 && !config.AllowMsgTTL {
			return made, fmt.Errorf("stream %s holds %d messages up to %d after the restore, not %d up to %d",
				s.Name, state.Messages, state.LastSeq, s.Messages, s.LastSeq)
		}
		if err := putTail(ctx, js, dir, s.Tail, c.now()); err != nil {
			return made, err
		}
	}
	return made, nil
}

// put restores one stream. Servers that were restoring it when that was cut off still have its name
// for some seconds, and may then make an empty stream of it, or one of half its messages.
func (c Config) put(
	ctx context.Context, js jetstream.JetStream, dir string, s Stream, config jetstream.StreamConfig,
	sign *topology.Restoring,
) (streamState, error) {
	state, err := put(ctx, js, dir, s, config)
	for began := time.Now(); nameInUse(err) && time.Since(began) < nameFreeAfter; {
		if !backoff.Sleep(ctx, nameAgain) {
			return state, err
		}
		// A stream that is just being made, or deleted, may have no server yet that responds for it.
		if left := c.clear(ctx, js, s.Name, sign); left != nil &&
			(ctx.Err() != nil || !errors.Is(left, context.DeadlineExceeded)) {
			return state, errors.Join(left, err)
		}
		state, err = put(ctx, js, dir, s, config)
	}
	return state, err
}

// clear deletes what a restore that was cut off has left under a name. Anything else that holds
// something is left alone.
func (c Config) clear(ctx context.Context, js jetstream.JetStream, name string, sign *topology.Restoring) error {
	if err := sign.Ours(ctx); err != nil {
		return err
	}
	left, err := js.Stream(ctx, name)
	if err != nil {
		return ignoreMissing(err)
	}
	if !sign.Resumed && left.CachedInfo().State.Msgs > 0 {
		return fmt.Errorf("stream %s was made by somebody else meanwhile", name)
	}
	return deleteAll(ctx, js, sign, []string{name})
}

func nameInUse(err error) bool {
	return jsapi.Code(err) == codeNameInUse
}

// finish sets where the numbers of events continue, and opens the store to relays. It returns how
// far ahead of the clock that is.
func (c Config) finish(
	ctx context.Context, js jetstream.JetStream, m Manifest, sign *topology.Restoring,
) (time.Duration, error) {
	if err := sign.Ours(ctx); err != nil {
		return 0, err
	}
	for _, s := range m.Streams { // one that was taken over may still have been deleting
		if _, err := js.Stream(ctx, s.Name); err != nil {
			return 0, fmt.Errorf("look at stream %s after the restore: %w", s.Name, err)
		}
	}
	mark, err := c.Topology.ReadMark(ctx, js)
	if err != nil {
		return 0, err
	}
	mark.Restored, mark.Raising = c.now(), 0
	// Above those of the store that was replaced, too, by this restore or by one that it goes on
	// with: it may be of a later backup.
	kept, err := sign.Ahead(ctx)
	if err != nil {
		return 0, err
	}
	mark.Ahead = max(mark.Ahead, kept, c.aheadOf(m)) + ahead.Microseconds()
	if _, err := c.Topology.WriteMark(ctx, js, mark); err != nil {
		return 0, err
	}
	return time.Duration(mark.Ahead) * time.Microsecond, sign.End(ctx)
}

// deleteAll deletes streams, for as long as the sign is ours: a restore that was suspended must not
// delete what another has restored.
func deleteAll(ctx context.Context, js jetstream.JetStream, sign *topology.Restoring, names []string) error {
	for _, name := range names {
		if err := sign.Ours(ctx); err != nil {
			return err
		}
		if err := ignoreMissing(js.DeleteStream(ctx, name)); err != nil {
			return fmt.Errorf("delete stream %s: %w", name, err)
		}
	}
	return nil
}

// allGone returns an error if one of a backup's streams is there. What this restore has made is
// deleted by then, so the stream is another's: made by a restore that this one has taken over from
// and that has not noticed yet, or by a relay that was starting.
func allGone(ctx context.Context, js jetstream.JetStream, m Manifest) error {
	for _, s := range m.Streams {
		_, err := js.Stream(ctx, s.Name)
		if err == nil {
			return fmt.Errorf("stream %s is there again", s.Name)
		}
		if err := ignoreMissing(err); err != nil {
			return fmt.Errorf("look at stream %s: %w", s.Name, err)
		}
	}
	return nil
}
