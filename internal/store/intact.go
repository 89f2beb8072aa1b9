package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/topology"
)

// A server that comes back after a power cut may have lost the end of a log, which it had
// acknowledged, and gives its numbers out again. Cursors beyond what is left would pass over the
// messages that have those numbers now. So the logs that cursors refer to are compared with what is
// known of them: when the connection comes back, when a reader of one begins again, when a write
// gets a number that is not new, and each minute. From the first sign on until they are compared,
// no document is written that says how far a log was read.

const (
	// compareEvery is how often the logs are compared with what is known of them, compareSoon how
	// often while that fails.
	compareEvery = time.Minute
	compareSoon  = 500 * time.Millisecond
	// believeAfter is how long a loss must show. A node that has just been elected the log's leader
	// may have yet to apply the last of what its predecessor acknowledged.
	believeAfter = 500 * time.Millisecond
	// setBackFor is for how long it is tried to set back what was read beyond the ends of the logs. It takes as long as
	// there is much of it, or the streams of NATS have no leader.
	setBackFor = 10 * time.Minute
)

// intact is what the store knows of the logs that cursors refer to.
type intact struct {
	inbox, events known
	doubt         signal.Signal // something has shown that a log may be cut
	doubts        atomic.Uint64 // how often
	compared      atomic.Uint64 // signs when the logs were last found to be whole
	watched       atomic.Bool   // WatchLogs runs

	// moving is read-locked while positions are being written, and locked when lost is set: then
	// none is written any more.
	moving sync.RWMutex
	lost   bool
}

// of returns what is known of a log; nil for a stream that no cursor refers to.
func (i *intact) of(stream string) *known {
	switch stream {
	case i.inbox.stream:
		return &i.inbox
	case i.events.stream:
		return &i.events
	}
	return nil
}

// WatchLogs watches until ctx ends that NATS loses nothing of the logs that cursors refer to. If it
// does, WatchLogs calls setBack, which must set back whatever was read beyond their ends, and ends
// with a LostError. Positions can then be written by setBack alone, so that a process that still
// has the old ones does not store them again.
func (s *Store) WatchLogs(ctx context.Context, setBack func(context.Context, *LostError) error) error {
	back := s.conn.StatusChanged(nats.CONNECTED)
	defer s.conn.RemoveStatusListener(back)
	s.intact.watched.Store(true)
	defer s.intact.watched.Store(false)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-back:
		case <-s.intact.doubt:
		case <-next.C:
		}
		switch lost, err := s.compareLogs(ctx); {
		case lost != nil:
			s.health.log.ErrorContext(ctx, "NATS has lost the end of a log; what was read beyond is set back, and then the "+
				"relay ends and must be started again", "error", lost)
			s.intact.lose()
			return s.setBack(ctx, lost, setBack)
		case err != nil: // the health of the store is reported elsewhere
			next.Reset(compareSoon)
		default:
			next.Reset(compareEvery)
		}
	}
}

// lose keeps positions from being written, once those under way have been.
func (i *intact) lose() {
	i.moving.Lock()
	defer i.moving.Unlock()
	i.lost = true
}

// setBack has what was read beyond the logs' ends set back.
func (s *Store) setBack(ctx context.Context, lost *LostError, setBack func(context.Context, *LostError) error) error {
	ctx, cancel := Within(context.WithValue(ctx, settingBack{}, true), setBackFor)
	defer cancel()
	wait := backoff.Backoff{Least: 100 * time.Millisecond, Most: 2 * time.Second}
	for {
		err := setBack(ctx, lost)
		if err == nil {
			return lost
		}
		if !wait.Sleep(ctx, 0) {
			return fmt.Errorf("%w. Setting back failed: %w. The next start does so if the logs are still shorter than what "+
				"was read", lost, err)
		}
		s.health.log.Log(ctx, Level(err, slog.LevelWarn), "what was read beyond the end of a log cannot be set back yet",
			"error", err)
	}
}

// signs counts what may have cut a log: new connections, and signs of it in what the server sends.
func (s *Store) signs() uint64 { return s.conn.Stats().Reconnects + s.intact.doubts.Load() }

// doubtLogs has the logs compared with what is known of them.
func (s *Store) doubtLogs() {
	s.intact.doubts.Add(1)
	s.intact.doubt.Set()
}

// compareLogs asks whether the logs still have what was known of them.
func (s *Store) compareLogs(ctx context.Context) (*LostError, error) {
	signs := s.signs()
	inbox, err := s.compare(ctx, &s.intact.inbox)
	if err != nil {
		return nil, err
	}
	events, err := s.compare(ctx, &s.intact.events)
	if err != nil {
		return nil, err
	}
	if inbox == nil && events == nil {
		s.intact.compared.Store(signs)
		return nil, nil
	}
	return &LostError{inbox, events}, nil
}

// compare returns what is lost of a log, nil if nothing is.
func (s *Store) compare(ctx context.Context, k *known) (*Cut, error) {
	shown, wrote := k.ends()
	cut, err := s.cutOf(ctx, k, shown, wrote)
	if err != nil || cut == nil {
		return nil, err
	}
	if !backoff.Sleep(ctx, believeAfter) {
		return nil, ctx.Err()
	}
	return s.cutOf(ctx, k, shown, wrote)
}

// mustHave returns an error if a log has lost what is known of it, and then has all logs compared.
func (s *Store) mustHave(ctx context.Context, k *known) error {
	cut, err := s.compare(ctx, k)
	if err == nil && cut != nil {
		s.doubtLogs()
		err = fmt.Errorf("%w: %w", ErrUnavailable, errUncompared)
	}
	return err
}

// cutOf compares a log's leader with what is known of the log.
func (s *Store) cutOf(ctx context.Context, k *known, shown point, wrote own) (*Cut, error) {
	first, last, err := s.bounds(ctx, k.stream)
	if err != nil {
		return nil, err
	}
	there, err := s.has(ctx, k.stream, shown.seq, first, last, func(m Message) bool { return m.Time.Equal(shown.at) })
	if err != nil {
		return nil, err
	}
	cut := &Cut{Log: k.stream, Known: max(shown.seq, wrote.seq)}
	if there {
		there, err = s.has(ctx, k.stream, wrote.seq, first, last, func(m Message) bool {
			return maphash.Bytes(seed, m.Data) == wrote.sum
		})
		if err != nil || there {
			return nil, err
		}
		cut.End = shown.seq // of what follows it nothing shows whether it is old or new
	} else {
		// What is lost is not younger than the last of it, and what is new is: clocks of servers
		// differ by less than a restart takes.
		cut.End = min(last, shown.seq-1)
		after := shown.at.Add(1)
		switch m, err := s.atLeader(ctx, k.stream, jsapi.Selection{Next: ">", Since: &after}); {
		case err == nil:
			cut.End, cut.Grown = min(cut.End, m.Seq-1), m.Time
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	switch m, err := s.atLeader(ctx, k.stream, jsapi.Selection{Seq: max(cut.End, 1)}); {
	case err == nil && cut.End > 0:
		cut.EndAt = m.Time
	case err != nil && !errors.Is(err, ErrNotFound):
		return nil, err
	}
	cut.Connections = k.beyond(cut.End)
	return cut, nil
}

// has reports whether a log, from first to last, has the message that it had at a number. One that
// has left the log counts as there.
func (s *Store) has(
	ctx context.Context, stream string, seq, first, last uint64, same func(Message) bool,
) (bool, error) {
	if seq == 0 || last >= seq && first > seq {
		return true, nil
	}
	if last < seq {
		return false, nil
	}
	m, err := s.atLeader(ctx, stream, jsapi.Selection{Seq: seq})
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return err == nil && same(m), err
}

// settingBack marks the contexts of those who set positions back.
type settingBack struct{}

// movePositions must be called before writes are sent, and done when they have ended. It refuses
// documents that say how far a log was read from the first sign of a loss on.
func (s *Store) movePositions(ctx context.Context, writes ...request) (done func(), err error) {
	position := slices.IndexFunc(writes, func(r request) bool { return s.isPosition(r.msg.Subject) })
	if position < 0 || ctx.Value(settingBack{}) != nil {
		return func() {}, nil
	}
	refuse := func(err error) (func(), error) {
		return nil, fmt.Errorf("write %s: %w", writes[position].msg.Subject, err)
	}
	if err := s.health.reachable(); err != nil { // else it might be back once the signs have been counted
		return refuse(err)
	}
	s.intact.moving.RLock()
	if s.intact.lost || s.intact.watched.Load() && s.signs() != s.intact.compared.Load() {
		s.intact.moving.RUnlock()
		return refuse(fmt.Errorf("%w: %w", ErrUnavailable, errUncompared))
	}
	return s.intact.moving.RUnlock, nil
}

// errUncompared means that a log may have lost what its readers have read.
var errUncompared = errors.New("NATS has yet to show that it has lost nothing of the logs; it is tried again")

// isPosition reports whether a subject is that of a document that says how far a log was read.
func (s *Store) isPosition(subject string) bool {
	bucket, ok := strings.CutPrefix(subject, "$KV.")
	if !ok {
		return false
	}
	bucket, key, _ := strings.Cut(bucket, ".")
	return key != probeKey && slices.ContainsFunc([]topology.BucketName{
		topology.Cursors, topology.Lanes, topology.Polls, topology.Replays,
	}, func(name topology.BucketName) bool { return bucket == s.topo.Bucket(name) })
}

// acknowledged notes that a log has taken a write, above what was known of the log when it was
// sent.
func (s *Store) acknowledged(k *known, before uint64, m *nats.Msg, ack *jetstream.PubAck) {
	switch {
	case k == nil || ack.Duplicate:
	case ack.Sequence <= before: // it is given out a second time
		s.doubtLogs()
	case s.signs() == s.intact.compared.Load():
		k.write(m, ack.Sequence)
	}
}
