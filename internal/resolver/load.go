package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// gather is how long the first of many runners that begin together waits for the others.
	gather = 5 * time.Millisecond
	// loadOneByOne is up to how many cursors are read by name; more are cheaper had by reading all there are.
	loadOneByOne = 32
	// loadBound bounds the loading of a batch.
	loadBound = 20 * time.Second
)

// loader reads and adopts the cursors of many connections together: shards arrive with hundreds of them, at a start with all, and
// each reader of the store costs its server more than what most of them have to say.
type loader struct {
	r    *Resolver
	turn chan struct{} // one batch at a time

	mu      sync.Mutex
	waiting []*arrival
}

// arrival is a runner that waits for its cursor.
type arrival struct {
	runner *runner
	loaded loaded
	err    error
	done   chan struct{}
}

// loaded is where a connection's reader stands, adopted, and its last page in the inbox.
type loaded struct {
	stand  *stand
	head   uint64
	asides []*aside
}

// load answers a runner's cursor, stored under its lease's epoch. The first that asks loads for all who ask meanwhile.
func (l *loader) load(ctx context.Context, run *runner) (loaded, error) {
	a := &arrival{runner: run, done: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, a)
	first := len(l.waiting) == 1
	l.mu.Unlock()
	if first {
		time.Sleep(gather)
		l.turn <- struct{}{}
		l.mu.Lock()
		batch := l.waiting
		l.waiting = nil
		l.mu.Unlock()
		// What others wait for does not end with this one.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadBound)
		l.batch(bounded, batch)
		cancel()
		<-l.turn
	}
	select {
	case <-a.done:
		return a.loaded, a.err
	case <-ctx.Done(): // what was adopted for it in vain, its next owner adopts again
		return loaded{}, ctx.Err()
	}
}

// batch loads and adopts. The documents are read before the lanes: a lane is stored before the document that counts on it, so the
// lanes read are all that the document names, and more at most.
func (l *loader) batch(ctx context.Context, batch []*arrival) {
	defer func() {
		for _, a := range batch {
			close(a.done)
		}
	}()
	documents, bad, err := l.documents(ctx, batch)
	var lanes map[string][]store.Entry[cursor.Lane]
	if err == nil {
		lanes, err = l.lanes(ctx, batch)
	}
	var heads map[string]uint64
	if err == nil {
		heads, err = l.heads(ctx, batch)
	}
	var aside map[string][]*aside
	if err == nil { // before the cursors are adopted: what is set aside later, a former owner has not settled
		aside, err = l.asides(ctx, batch)
	}
	if err != nil {
		for _, a := range batch {
			a.err = err
		}
		return
	}
	var stands []*stand
	var whose []*arrival
	for _, a := range batch {
		run := a.runner
		key := store.InboxCursor(run.connection)
		d := documents[key]
		if a.err = bad[key]; a.err != nil {
			continue
		}
		if d.Value.Epoch > run.lease.Epoch() {
			run.lease.Superseded(d.Value.Epoch)
			a.err = fmt.Errorf("adopt cursor %s: %w", key, errSuperseded)
			continue
		}
		s, err := l.r.newStand(run.lease, key, run.generation, d.Value, d.Revision, lanes[key])
		if err != nil {
			a.err = err
			continue
		}
		a.loaded = loaded{stand: s, head: heads[run.connection], asides: aside[run.connection]}
		if d.Revision == 0 && len(lanes[key]) == 0 { // nothing to fence: whoever writes the first document finds the other's
			carried := s.Carried()
			carried.Epoch, carried.Adopted = run.lease.Epoch(), run.lease.Epoch()
			s.SetCarried(carried)
			s.Stored(s.Changes())
			continue
		}
		s.Adopt(run.lease.Epoch())
		stands, whose = append(stands, s), append(whose, a)
	}
	if len(stands) == 0 {
		return
	}
	for i, err := range flushAll(ctx, stands, readAgain) {
		if err != nil {
			whose[i].err = fmt.Errorf("adopt the cursor: %w", err)
		}
	}
}

// documents answers the stored documents by key, and why those in bad cannot be read.
func (l *loader) documents(ctx context.Context, batch []*arrival) (documents map[string]store.Entry[cursor.Document], bad map[string]error, err error) {
	documents, bad = map[string]store.Entry[cursor.Document]{}, map[string]error{}
	if len(batch) > loadOneByOne {
		all, err := l.r.store.Cursors.All(ctx, inboxCursors, func(key string, err error) { bad[key] = err })
		for _, d := range all {
			documents[d.Key] = d
		}
		return documents, bad, err
	}
	for _, a := range batch {
		key := store.InboxCursor(a.runner.connection)
		switch d, revision, err := l.r.store.Cursors.Get(ctx, key); {
		case err == nil:
			documents[key] = store.Entry[cursor.Document]{Key: key, Value: d, Revision: revision}
		case !errors.Is(err, store.ErrNotFound):
			bad[key] = err
		}
	}
	return documents, bad, nil
}

func (l *loader) lanes(ctx context.Context, batch []*arrival) (map[string][]store.Entry[cursor.Lane], error) {
	told := func(key string, err error) {
		l.r.log.ErrorContext(ctx, "cannot read a lane; what waits in it is lost to the reader", "lane", key, "error", err)
	}
	if len(batch) > loadOneByOne {
		return l.r.allLanes(ctx, told)
	}
	keys := make([]string, len(batch))
	for i, a := range batch {
		keys[i] = store.InboxCursor(a.runner.connection) + ".>"
	}
	lanes := map[string]store.Entry[cursor.Lane]{}
	for from, more := uint64(1), true; more; {
		entries, last, some, err := l.r.store.Lanes.Changed(ctx, from, keys, 4096, told)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			lanes[e.Key] = e
		}
		from, more = last+1, some
	}
	grouped := map[string][]store.Entry[cursor.Lane]{}
	for key, e := range lanes {
		grouped[cursorOf(key)] = append(grouped[cursorOf(key)], e)
	}
	return grouped, nil
}

// asidesAtOnce is how many unresolved notifications are read at a time: each comes with its bytes.
const asidesAtOnce = 64

// asides answers what lies in relay_unresolved of each connection and may be retried by itself.
func (l *loader) asides(ctx context.Context, batch []*arrival) (map[string][]*aside, error) {
	var keys []string
	if len(batch) <= loadOneByOne {
		for _, a := range batch {
			keys = append(keys, a.runner.connection+".>")
		}
	}
	there := map[string]relay.Unresolved{}
	for from, more := uint64(1), true; more; {
		entries, last, some, err := l.r.store.Unresolved.Changed(ctx, from, keys, asidesAtOnce, func(key string, err error) {
			l.r.log.ErrorContext(ctx, "cannot read an unresolved notification; it is not retried by itself", "unresolved", key, "error", err)
		})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			e.Value.Raw = nil
			there[e.Key] = e.Value
		}
		from, more = last+1, some
	}
	of := map[string][]*aside{}
	for _, doc := range there {
		if reason(doc.Reason).retriedByItself() {
			of[doc.Connection] = append(of[doc.Connection], asideOf(doc))
		}
	}
	return of, nil
}

func (l *loader) heads(ctx context.Context, batch []*arrival) (map[string]uint64, error) {
	connections := make([]string, len(batch))
	for i, a := range batch {
		connections[i] = a.runner.connection
	}
	return l.r.store.Inbox.Heads(ctx, connections)
}

// allLanes answers the lanes of every cursor over the inbox, by the cursor's key.
func (r *Resolver) allLanes(ctx context.Context, bad func(string, error)) (map[string][]store.Entry[cursor.Lane], error) {
	all, err := r.store.Lanes.All(ctx, inboxCursors, bad)
	if err != nil {
		return nil, err
	}
	lanes := map[string][]store.Entry[cursor.Lane]{}
	for _, e := range all {
		lanes[cursorOf(e.Key)] = append(lanes[cursorOf(e.Key)], e)
	}
	return lanes, nil
}

// cursorOf answers whose lane a key is of: inbox.<connection>.<lane>.
func cursorOf(key string) string {
	_, connection, _, _ := store.ParseCursorKey(key)
	return store.InboxCursor(connection)
}
