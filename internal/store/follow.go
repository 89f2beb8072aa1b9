package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
)

// A watch lives on one server of a cluster. When that server dies, its watcher notices by missed
// heartbeats and begins again ten seconds later. Meanwhile a paused callback would still be
// delivered to. So writers of documents that others act on announce each write, and a watcher whose
// watch does not show the document reads it itself.
const (
	// lateAfter is how long a watch may take to show what was announced. lateAgain is the time
	// after which a document that could not be read is read again.
	lateAfter = 100 * time.Millisecond
	lateAgain = 250 * time.Millisecond
	// sayAgain is when a write is announced a second time, for those whose connection was on the
	// server that died.
	sayAgain = 600 * time.Millisecond
	// maxSaid is how many announcements may wait to be read.
	maxSaid = 4096
	// checkEvery is how often a watch checks that its bucket still has what was shown, checkSoon how
	// often after its connection was away, until it could be checked.
	checkEvery = time.Minute
	checkSoon  = time.Second
)

// announce publishes to the watchers of the bucket that a document was written. Where the message
// is lost, the watch shows the document later.
func (b *Bucket[T]) announce(key string, revision uint64) {
	if !b.said {
		return
	}
	subject, what := b.s.topo.WrittenSubject(b.name), fmt.Appendf(nil, "%d %s", revision, key)
	_ = b.s.conn.Publish(subject, what)
	time.AfterFunc(sayAgain, func() { _ = b.s.conn.Publish(subject, what) })
}

// Watch calls each with every document there is, then ready once, then each with every change,
// until ctx ends. It runs in the caller's goroutine. When ready is called, each has received
// everything that the bucket's leader has. A removal may come without its marker, at the revision
// of the document. Then nothing above that revision was reported before. Watch ends with errLost when
// the bucket has lost what was shown.
func (b *Bucket[T]) Watch(
	ctx context.Context, each func(Entry[T]), ready func(), bad func(key string, err error),
) error {
	f := follower[T]{b: b, each: each, bad: bad, late: map[string]uint64{}, reported: map[string]reported{},
		timer: time.NewTimer(lateAgain)}
	f.timer.Stop()
	defer f.timer.Stop()
	said := make(chan *nats.Msg, maxSaid)
	if b.said {
		sub, err := b.s.conn.ChanSubscribe(b.s.topo.WrittenSubject(b.name), said)
		if err != nil {
			return fmt.Errorf("listen for changes of bucket %s: %w", b.name, classify(err))
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	var again <-chan time.Time
	if b.relist > 0 {
		tick := time.NewTicker(b.relist)
		defer tick.Stop()
		again = tick.C
	}
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	back := b.s.conn.StatusChanged(nats.CONNECTED)
	defer b.s.conn.RemoveStatusListener(back)
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", b.name, classify(err))
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-back:
			check.Reset(checkSoon)
		case <-check.C:
			switch last, err := b.last(ctx); {
			case err != nil: // it is checked again
			case last < f.upTo:
				return fmt.Errorf("watch bucket %s: %w: it ends at revision %d, and %d was shown", b.name, errLost, last, f.upTo)
			default:
				check.Reset(checkEvery)
			}
		case m := <-said:
			f.announced(m)
		case <-f.timer.C:
			f.catchUp(ctx)
		case <-again:
			// A watch that its server lost for a time goes on behind what it showed last. A marker
			// that expired meanwhile it never shows.
			next, err := b.kv.WatchAll(ctx)
			if err != nil {
				return fmt.Errorf("list bucket %s again: %w", b.name, classify(err))
			}
			_ = w.Stop()
			w = next
			f.list, f.before = f.list+1, f.upTo
		case e, open := <-w.Updates():
			switch {
			case open && e == nil:
				if err := f.complete(ctx); err != nil {
					return fmt.Errorf("watch bucket %s: %w", b.name, err)
				}
				f.forget()
				if f.list == 0 {
					ready()
				}
			case open:
				f.shown(e)
			case ctx.Err() != nil:
				return ctx.Err()
			default:
				return fmt.Errorf("watch bucket %s: %w: watch ended", b.name, ErrUnavailable)
			}
		}
	}
}

// errLost reports that a bucket's server has lost the last writes, as in a power cut. It gives their
// revisions out again, and a watch that goes on would show none of what is written under them.
var errLost = errors.New("the server has lost what was written last")

// KeepWatching calls watch again and again until ctx ends, and waits between. It logs why a watch of
// what the text names has ended, unless it was cancelled.
func KeepWatching(ctx context.Context, log *slog.Logger, what string, wait *backoff.Backoff, watch func() error) {
	for ; ctx.Err() == nil; wait.Sleep(ctx, 0) {
		if err := watch(); ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			log.Log(ctx, Level(err, slog.LevelWarn), "a watch ended; it is started again", "documents", what, "error", err)
		}
	}
}

// follower merges what a watch shows, what its watcher read itself, and what is listed again.
type follower[T any] struct {
	b    *Bucket[T]
	each func(Entry[T])
	bad  func(key string, err error)

	upTo     uint64              // the highest revision that the watch has shown, in their order
	late     map[string]uint64   // announced as written at these revisions, and not shown yet
	reported map[string]reported // the documents, and removals that the watch has yet to show
	list     int                 // how often everything was listed before
	before   uint64              // upTo when it was listed last: markers up to there were reported
	timer    *time.Timer         // when what is late is read
}

// reported is what was last reported of a key.
type reported struct {
	revision uint64
	removed  bool
	list     int // the list in which it was, or after which it was reported
}

// report reports an entry unless that, or something later, was reported already.
func (f *follower[T]) report(e Entry[T], decode func() (T, error)) {
	before, known := f.reported[e.Key]
	if known && e.Revision <= before.revision {
		if before.removed && !e.early && e.Revision == before.revision {
			delete(f.reported, e.Key)
		} else {
			before.list = f.list
			f.reported[e.Key] = before
		}
		return
	}
	if e.Deleted && !e.early {
		delete(f.reported, e.Key)
		if !known && e.Revision <= f.before {
			return
		}
	} else {
		f.reported[e.Key] = reported{e.Revision, e.Deleted, f.list}
	}
	if !e.Deleted {
		var err error
		if e.Value, err = decode(); err != nil {
			f.bad(e.Key, err)
			return
		}
	}
	f.each(e)
}

// complete reads at the leader what a list lacks: its server may lag, or end it too early
// (overwritten). It comes in the order of revisions, so that all of it is behind what was shown.
func (f *follower[T]) complete(ctx context.Context) error {
	for from, more := f.upTo+1, true; more; {
		var late []Message
		var err error
		if late, more, err = f.b.s.behind(ctx, "KV_"+f.b.name, from, time.Time{},
			[]string{f.b.subject(">")}, listChunk); err != nil {
			return err
		}
		for _, m := range late {
			from = m.Seq + 1
			key := m.Subject[len(f.b.subject("")):]
			f.report(Entry[T]{Key: key, Revision: m.Seq, Deleted: isMarker(m.Header),
				Expired: isExpired(m.Header), early: true},
				func() (T, error) { return f.b.codec.decode(key, m.Data) })
		}
	}
	return nil
}

// forget reports the removal of what is no longer among what was listed: its marker was never
// shown, and has expired.
func (f *follower[T]) forget() {
	for key, t := range f.reported {
		switch {
		case t.list == f.list:
		case t.removed:
			delete(f.reported, key)
		default:
			delete(f.reported, key)
			f.each(Entry[T]{Key: key, Revision: t.revision, Deleted: true, Expired: true, early: true})
		}
	}
}

// announced takes a message of announce, "<revision> <key>".
func (f *follower[T]) announced(m *nats.Msg) {
	at, key, ok := strings.Cut(string(m.Data), " ")
	revision, err := strconv.ParseUint(at, 10, 64)
	if !ok || err != nil || f.knows(key, revision) {
		return
	}
	if len(f.late) == 0 {
		f.timer.Reset(lateAfter)
	}
	f.late[key] = max(f.late[key], revision)
}

// knows reports whether a revision of a key, or a later one, was shown or reported already.
func (f *follower[T]) knows(key string, revision uint64) bool {
	return revision <= f.upTo || revision <= f.reported[key].revision
}

// catchUp reads what is late at the bucket's leader.
func (f *follower[T]) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for key, revision := range f.late {
		if f.knows(key, revision) {
			delete(f.late, key)
			continue
		}
		e := Entry[T]{Key: key}
		if err := f.b.current(ctx, &e); err != nil {
			if !InTrouble(err) { // it cannot be decoded, which no second try changes
				delete(f.late, key)
				f.bad(key, err)
			}
			continue
		}
		delete(f.late, key)
		e.Revision, e.early = max(e.Revision, revision), true // nothing at all is there: it was deleted then
		f.report(e, func() (T, error) { return e.Value, nil })
	}
	if len(f.late) > 0 {
		f.timer.Reset(lateAgain)
	}
}

// shown takes what the watch shows.
func (f *follower[T]) shown(e jetstream.KeyValueEntry) {
	f.upTo = max(f.upTo, e.Revision())
	f.report(Entry[T]{
		Key: e.Key(), Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut,
		Expired: e.Operation() == jetstream.KeyValuePurge,
	}, func() (T, error) { return f.b.codec.decode(e.Key(), e.Value()) })
}
