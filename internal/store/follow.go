package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A watch lives on one server of a cluster. When that dies its watcher misses heartbeats, and begins anew ten seconds later; a callback that was paused
// meanwhile would be delivered to. So whoever writes a document that others work by says so, and a watcher whose watch does not show
// it reads it for itself.
const (
	// lateAfter is how long a watch may take to show what was said, lateAgain when a document is asked for again that could not be read.
	lateAfter = 100 * time.Millisecond
	lateAgain = 250 * time.Millisecond
	// sayAgain is when it is said a second time, to those whose connection was on the server that died.
	sayAgain = 600 * time.Millisecond
	// maxSaid is how much may be waiting to be heard.
	maxSaid = 4096
)

// say tells the watchers of the bucket that a document was written. It is lost where nobody hears it: the watch shows it in the end.
func (b *Bucket[T]) say(key string, revision uint64) {
	if !b.said {
		return
	}
	subject, what := b.s.topo.WrittenSubject(b.name), fmt.Appendf(nil, "%d %s", revision, key)
	_ = b.s.conn.Publish(subject, what)
	time.AfterFunc(sayAgain, func() { _ = b.s.conn.Publish(subject, what) })
}

// Watch calls each with every document there is, then ready once, then each with every change, until ctx ends. It runs in the
// caller's goroutine. What was told of when ready is called is all that the bucket's leader has.
func (b *Bucket[T]) Watch(ctx context.Context, each func(Entry[T]), ready func(), bad func(key string, err error)) error {
	f := follower[T]{b: b, each: each, bad: bad, late: map[string]uint64{}, read: map[string]uint64{}, timer: time.NewTimer(lateAgain)}
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
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", b.name, classify(err))
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-said:
			f.hear(m)
		case <-f.timer.C:
			f.catchUp(ctx)
		case e, open := <-w.Updates():
			switch {
			case open && e == nil:
				if err := f.complete(ctx); err != nil {
					return fmt.Errorf("watch bucket %s: %w", b.name, err)
				}
				ready()
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

// follower brings together what a watch shows and what its watcher had to read for itself.
type follower[T any] struct {
	b    *Bucket[T]
	each func(Entry[T])
	bad  func(key string, err error)

	upTo  uint64            // the highest revision that the watch has shown, in their order
	late  map[string]uint64 // written at these revisions, as was said, and not shown
	read  map[string]uint64 // read at these revisions before the watch showed them
	timer *time.Timer       // when what is late is read
}

// complete reads at the leader what the first list lacks: its server may lag, or end it too early (overwritten). It comes in the order of
// revisions, so that all of it is behind what was shown.
func (f *follower[T]) complete(ctx context.Context) error {
	for from, more := f.upTo+1, true; more; {
		var late []Message
		var err error
		if late, more, err = f.b.s.behind(ctx, "KV_"+f.b.name, from, time.Time{}, []string{f.b.subject(">")}, listChunk); err != nil {
			return err
		}
		for _, m := range late {
			from = m.Seq + 1
			e := Entry[T]{Key: m.Subject[len(f.b.subject("")):], Revision: m.Seq, Deleted: isMarker(m.Header), Expired: isExpired(m.Header)}
			f.read[e.Key] = e.Revision
			if !e.Deleted {
				if e.Value, err = f.b.codec.decode(e.Key, m.Data); err != nil {
					f.bad(e.Key, err)
					continue
				}
			}
			f.each(e)
		}
	}
	return nil
}

// hear takes "<revision> <key>".
func (f *follower[T]) hear(m *nats.Msg) {
	at, key, ok := strings.Cut(string(m.Data), " ")
	revision, err := strconv.ParseUint(at, 10, 64)
	if !ok || err != nil || f.told(key, revision) {
		return
	}
	if len(f.late) == 0 {
		f.timer.Reset(lateAfter)
	}
	f.late[key] = max(f.late[key], revision)
}

// told reports whether a revision of a key, or a later one, was shown or read already.
func (f *follower[T]) told(key string, revision uint64) bool {
	return revision <= f.upTo || revision <= f.read[key]
}

// catchUp reads what is late at the bucket's leader.
func (f *follower[T]) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for key, revision := range f.late {
		if f.told(key, revision) {
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
		e.Revision = max(e.Revision, revision) // nothing at all is there: it was deleted then
		f.read[key] = e.Revision
		f.each(e)
	}
	if len(f.late) > 0 {
		f.timer.Reset(lateAgain)
	}
}

// shown takes what the watch shows.
func (f *follower[T]) shown(e jetstream.KeyValueEntry) {
	f.upTo = max(f.upTo, e.Revision())
	if read, early := f.read[e.Key()]; early {
		if e.Revision() >= read {
			delete(f.read, e.Key())
		}
		if e.Revision() <= read {
			return
		}
	}
	entry := Entry[T]{
		Key: e.Key(), Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut, Expired: e.Operation() == jetstream.KeyValuePurge,
	}
	if !entry.Deleted {
		var err error
		if entry.Value, err = f.b.codec.decode(e.Key(), e.Value()); err != nil {
			f.bad(e.Key(), err)
			return
		}
	}
	f.each(entry)
}
