package cursorstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// world is a store that two owners of one shard write, the first of them through a gate.
type world struct {
	t     *testing.T
	nc    *nats.Conn
	store *store.Store
	fails atomic.Pointer[func(store.Write) error]

	first, second *cursorstore.Store
}

var now = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, nc: natstest.Start(t)}
	open := func(gate store.Gate) *store.Store {
		s, err := store.Open(t.Context(), store.Config{
			Conn: w.nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
			Log: slog.New(slog.DiscardHandler), Gate: gate,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.store = open(store.Gate{})
	gated := open(store.Gate{Before: func(write store.Write) error {
		if f := w.fails.Load(); f != nil {
			return (*f)(write)
		}
		return nil
	}})
	w.first = cursorstore.New(gated, store.CallbackCursors, slog.New(slog.DiscardHandler))
	w.second = cursorstore.New(w.store, store.CallbackCursors, slog.New(slog.DiscardHandler))
	return w
}

// fail has writes of the first owner fail whose subject has a part.
func (w *world) fail(part string, err error) {
	f := func(write store.Write) error {
		if strings.Contains(write.Subject, part) {
			return err
		}
		return nil
	}
	w.fails.Store(&f)
}

// reader is a cursor at work.
type reader struct {
	*cursor.Cursor
	handle *cursorstore.Handle
}

func (r *reader) save() cursorstore.Save {
	return cursorstore.Save{Handle: r.handle, Changes: r.Changes()}
}

var policy = cursor.Policy{Concurrency: 100, Schedule: []time.Duration{time.Minute, time.Minute}}

// adopt loads a cursor and writes it under an epoch.
func (w *world) adopt(s *cursorstore.Store, epoch uint64, id string) (*reader, cursorstore.Result) {
	w.t.Helper()
	found, err := s.LoadSome(w.t.Context(), []string{id})
	f := found[id]
	if err != nil {
		w.t.Fatal(err)
	}
	return w.build(s, epoch, f)
}

func (w *world) build(s *cursorstore.Store, epoch uint64, f *cursorstore.Stored) (*reader, cursorstore.Result) {
	w.t.Helper()
	c, err := f.Restore(policy, "gen", now)
	if err != nil {
		w.t.Fatal(err)
	}
	if c == nil {
		c = f.Begin(policy, "gen", 0, now)
	}
	c.Adopt(epoch)
	r := &reader{c, f.Handle}
	save := r.save()
	result := s.Adopt(w.t.Context(), epoch, []cursorstore.Save{save})[0]
	if result.Outcome == store.Written {
		r.Stored(save.Changes)
	}
	return r, result
}

func (w *world) flush(s *cursorstore.Store, epoch uint64, r *reader) cursorstore.Result {
	save := r.save()
	result := s.Flush(w.t.Context(), epoch, []cursorstore.Save{save})[0]
	if result.Outcome == store.Written {
		r.Stored(save.Changes)
	}
	return result
}

func (w *world) written(what string, r cursorstore.Result) {
	w.t.Helper()
	if r.Outcome != store.Written || !r.Fenced || r.Err != nil {
		w.t.Fatalf("%s: outcome %d, fenced %t, %v", what, r.Outcome, r.Fenced, r.Err)
	}
}

func order(n int) string { return fmt.Sprintf("leeds.order-%d", n) }

// moveTo has the document stored at a position with the next Changes.
func (r *reader) moveTo(at uint64) {
	r.Advance(at)
	carried := r.Carried()
	carried.Resumed++
	r.SetCarried(carried)
}

// lanes has entries taken and fail, so that each of the orders has a lane.
func (r *reader) lanes(first uint64, orders int) {
	for n := range orders {
		r.Offer(cursor.Entry{Seq: first + uint64(n), Order: order(n)})
	}
	for b, ok := r.Take(now, 1); ok; b, ok = r.Take(now, 1) {
		r.Fail(b, now, cursor.Failure{Reason: "503"})
	}
}

// succeed has all lanes come to their end.
func (r *reader) succeed() {
	later := now.Add(time.Hour)
	for b, ok := r.Take(later, 1); ok; b, ok = r.Take(later, 1) {
		r.Succeed(b, later)
	}
}

func (w *world) stored(id string) *cursorstore.Stored {
	w.t.Helper()
	found, err := w.second.LoadSome(w.t.Context(), []string{id})
	f := found[id]
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// A cursor goes through its life, and its next owner finds where it stands; what the former owner writes
// then is refused.
func TestCursorChangesItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, res := w.adopt(w.first, 5, "a")
	w.written("adopt what is not there", res)
	r.lanes(1, 3)
	w.written("store lanes", w.flush(w.first, 5, r))
	r2, res := w.adopt(w.second, 6, "a")
	w.written("adopt", res)
	if r2.Position() != 3 || r2.Lanes() != 3 {
		t.Fatalf("the next owner begins at %d with %d lanes", r2.Position(), r2.Lanes())
	}
	// The former owner's removals, lanes and documents are refused, each for itself.
	r.succeed()
	if res := w.flush(w.first, 5, r); res.Outcome != store.Superseded || res.Epoch != 6 || res.Fenced {
		t.Fatalf("the former owner's document: %+v", res)
	}
	if f := w.stored("a"); f.Epoch() != 6 || len(f.Lanes) != 3 || f.Highest() != 3 {
		t.Fatalf("stored is %+v", f)
	}
	r2.succeed()
	w.written("remove lanes", w.flush(w.second, 6, r2))
	if f := w.stored("a"); len(f.Lanes) != 0 || f.Document.Position != 3 {
		t.Fatalf("stored is %+v", f)
	}
	// Lanes of the same orders come again over the markers of those before.
	r2.lanes(10, 3)
	w.written("store lanes again", w.flush(w.second, 6, r2))
}

// What a former owner writes between loading and adopting is seen, and loaded again.
func TestAdoptionIsContested(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"lane", "document"} {
		t.Run(late, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r, res := w.adopt(w.first, 5, "a")
			w.written("adopt", res)
			r.lanes(1, 1)
			w.written("store", w.flush(w.first, 5, r))
			found, err := w.second.LoadSome(t.Context(), []string{"a"})
			f := found["a"]
			if err != nil {
				t.Fatal(err)
			}
			if late == "lane" {
				r.lanes(2, 2)
			} else {
				r.moveTo(7)
			}
			w.written("the former owner's", w.flush(w.first, 5, r))
			if _, res := w.build(w.second, 6, f); res.Outcome != store.Changed || res.Fenced {
				t.Fatalf("adopted what has changed: %+v", res)
			}
			r2, res := w.adopt(w.second, 6, "a")
			w.written("adopt again", res)
			if want := map[string]uint64{"lane": 3, "document": 7}[late]; r2.Position() < want {
				t.Fatalf("it begins at %d, want %d", r2.Position(), want)
			}
		})
	}
}

// A lane is stored before the document that passes its entries, and removed after the document that has
// settled them. What fails of one cursor keeps no other from being stored.
func TestOrderOfWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := []string{"a", "b", "c"}
	readers := make([]*reader, len(ids))
	all := func(change func(*reader)) (results []cursorstore.Result) {
		saves := make([]cursorstore.Save, len(readers))
		for i, r := range readers {
			change(r)
			saves[i] = r.save()
		}
		results = w.first.Flush(t.Context(), 5, saves)
		for i, res := range results {
			if res.Outcome == store.Written {
				readers[i].Stored(saves[i].Changes)
			}
		}
		return results
	}
	for i, id := range ids {
		var res cursorstore.Result
		readers[i], res = w.adopt(w.first, 5, id)
		w.written("adopt", res)
	}
	for _, err := range []error{store.ErrUnavailable, store.ErrUnclear} {
		w.fail("lanes."+store.CallbackCursor("b")+".", err)
		results := all(func(r *reader) { r.lanes(r.ReadFrom(), 2) })
		w.written("the first", results[0])
		w.written("the last", results[2])
		if results[1].Outcome == store.Written || results[1].Fenced || !errors.Is(results[1].Err, err) {
			t.Fatalf("a lane was not stored: %+v", results[1])
		}
		if f := w.stored("b"); len(f.Lanes) != 0 || f.Document.Position != 0 {
			t.Fatalf("the document has passed entries of lanes that are not stored: %+v", f)
		}
	}
	w.fails.Store(nil)
	w.written("the lanes", all(func(*reader) {})[1])

	w.fail("cursors."+store.CallbackCursor("b"), store.ErrUnavailable)
	results := all((*reader).succeed)
	w.written("the first", results[0])
	if f := w.stored("b"); results[1].Outcome != store.NotStored || len(f.Lanes) != 2 {
		t.Fatalf("lanes are removed before the document is stored: %+v, %+v", results[1], f)
	}
	w.fails.Store(nil)
	w.written("the document and the removals", all(func(*reader) {})[1])
	for _, id := range ids {
		if f := w.stored(id); len(f.Lanes) != 0 {
			t.Errorf("%s has %d lanes left", id, len(f.Lanes))
		}
	}
}

// Load finds everything of a shard and nothing of another, what cannot be read among it.
func TestLoadOfAShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ids, others []string // two shards, one of whose numbers begins with the other's
	const shard, other = 5, 50
	for i := 0; len(ids) < 20 || len(others) < 5; i++ {
		switch id := fmt.Sprintf("cb-%d", i); relay.ShardOf(id) {
		case shard:
			ids = append(ids, id)
		case other:
			others = append(others, id)
		}
	}
	for _, id := range append(others, ids[:10]...) {
		r, res := w.adopt(w.first, 5, id)
		w.written("adopt", res)
		r.lanes(1, 2)
		w.written("store", w.flush(w.first, 5, r))
	}
	js := w.store.JetStream()
	for _, subject := range []string{"$KV.relay_cursors." + store.CallbackCursor(ids[0]),
		"$KV.relay_cursors.5.callback.x.y", "$KV.relay_cursors.5.callback.cb"} {
		if _, err := js.Publish(t.Context(), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.store.Watermarks.Create(t.Context(), store.WatermarkKey(shard, "events"),
		store.Watermark{Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	found, err := w.second.Load(t.Context(), shard, ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		f := found[id]
		switch {
		case f == nil:
			t.Fatalf("%s is missing", id)
		case i == 0:
			if _, err := f.Restore(policy, "gen", now); f.Unreadable == nil || err == nil || f.Empty() {
				t.Errorf("%s cannot be read, and is %+v, %v", id, f, err)
			}
		case i < 10:
			if f.Document == nil || len(f.Lanes) != 2 || f.Epoch() != 5 || f.Highest() != 2 || f.Empty() {
				t.Errorf("%s is %+v", id, f)
			}
			if c, err := f.Restore(policy, "another", now); c != nil || err != nil {
				t.Errorf("a cursor of another generation was restored: %v", err)
			}
		case !f.Empty():
			t.Errorf("%s is not stored, and is %+v", id, f)
		}
		delete(found, id)
	}
	if len(found) != 0 {
		t.Errorf("found as well: %v", found)
	}
}

// A cursor that cannot be used is begun again, and what was stored of it goes.
func TestBeginAgainAndErase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, res := w.adopt(w.first, 5, "a")
	w.written("adopt", res)
	r.lanes(1, 3)
	w.written("store", w.flush(w.first, 5, r))
	f := w.stored("a")
	c := f.Begin(policy, "made again", 40, now)
	c.Adopt(6)
	r2 := &reader{c, f.Handle}
	w.written("begin again", w.second.Adopt(t.Context(), 6, []cursorstore.Save{r2.save()})[0])
	if f = w.stored("a"); len(f.Lanes) != 0 || f.Document.Position != 40 ||
		f.Document.Generation != "made again" || f.Document.Adopted != 6 {
		t.Fatalf("stored is %+v", f.Document)
	}
	if err := w.first.Erase(t.Context(), 5, f, ""); err != nil || w.stored("a").Empty() {
		t.Fatalf("an earlier owner has erased it: %v", err)
	}
	if err := w.second.Erase(t.Context(), 6, f, "made again"); err != nil || w.stored("a").Empty() {
		t.Fatalf("what was to be kept is erased: %v", err)
	}
	r2.lanes(41, 2)
	w.written("store", w.flush(w.second, 6, r2))
	if err := w.second.Erase(t.Context(), 6, w.stored("a"), "another"); err != nil || !w.stored("a").Empty() {
		t.Fatalf("it is not erased: %v", err)
	}
	if _, err := w.store.JetStream().Publish(t.Context(), "$KV.relay_cursors."+store.CallbackCursor("b"),
		[]byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if err := w.second.Erase(t.Context(), 6, w.stored("b"), ""); err != nil || !w.stored("b").Empty() {
		t.Fatalf("what cannot be read is not erased: %v", err)
	}
}

// logEnd is a log whose end a function returns.
type logEnd struct {
	end  func(highest uint64) uint64
	tell func(id string, last uint64) error
}

func (l logEnd) End(_ context.Context, highest uint64) (uint64, error) { return l.end(highest), nil }

func (l logEnd) Clamped(_ context.Context, taken []cursorstore.Taken, last uint64) error {
	for _, c := range taken {
		if err := l.tell(c.ID, last); err != nil {
			return err
		}
	}
	return nil
}

// Cursors beyond the end of the log are taken back to it and reported, but not those that their owner has
// written meanwhile.
func TestClamp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	readers := map[string]*reader{}
	for id, at := range map[string]uint64{"within": 50, "beyond": 70, "moved": 80, "lane": 61} {
		r, res := w.adopt(w.first, 5, id)
		w.written("adopt", res)
		if id == "lane" {
			r.lanes(59, 3)
		} else {
			r.moveTo(at)
		}
		w.written("store", w.flush(w.first, 5, r))
		readers[id] = r
	}
	told := map[string]uint64{}
	log := logEnd{end: func(highest uint64) uint64 {
		if highest != 80 {
			t.Errorf("the highest position is %d", highest)
		}
		readers["moved"].moveTo(90)
		w.written("the owner's", w.flush(w.first, 5, readers["moved"]))
		return 60
	}, tell: func(id string, last uint64) error {
		told[id] = last
		if at := w.stored(id).Highest(); at <= last {
			t.Errorf("%s has been taken back to %d before that was told", id, at)
		}
		return nil
	}}
	if err := w.second.Clamp(t.Context(), now, nil, log.End, log.Clamped); err != nil {
		t.Fatal(err)
	}
	if len(told) != 3 || told["beyond"] != 60 || told["lane"] != 60 {
		t.Errorf("told: %v", told)
	}
	for id, want := range map[string]uint64{"within": 50, "beyond": 60, "moved": 90, "lane": 60} {
		if f := w.stored(id); f.Highest() != want || f.Epoch() != 5 {
			t.Errorf("%s stands at %d under epoch %d", id, f.Highest(), f.Epoch())
		}
	}
	if n := len(w.stored("lane").Lanes); n != 2 {
		t.Errorf("%d lanes are left, want 2", n)
	}
	// Again there is nothing to do; and what is not reported is not stored.
	log = logEnd{end: func(uint64) uint64 { return 55 },
		tell: func(string, uint64) error { return errors.New("the event cannot be stored") }}
	if err := w.second.Clamp(t.Context(), now, nil, log.End, log.Clamped); err == nil || w.stored("beyond").Highest() != 60 {
		t.Errorf("clamped without being told: %v", err)
	}
}

// Where a log was cut and has grown beyond a cursor since, the cursor is taken back all the same, whenever it was
// written: its owner may not have noticed yet.
func TestClampToACut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	place := func(id string, at uint64) {
		r, res := w.adopt(w.first, 5, id)
		w.written("adopt", res)
		r.moveTo(at)
		w.written("store", w.flush(w.first, 5, r))
	}
	place("below", 50)
	place("before", 70)
	grown := time.Now()
	place("after", 75)
	end := func(context.Context, uint64) (uint64, error) { return 80, nil } // which shows nothing
	tell := func(context.Context, []cursorstore.Taken, uint64) error { return nil }
	cut := &store.Cut{End: 60, Grown: grown}
	if err := w.second.Clamp(t.Context(), now, cut, end, tell); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]uint64{"below": 50, "before": 60, "after": 60} {
		if at := w.stored(id).Highest(); at != want {
			t.Errorf("%s is at %d, want %d", id, at, want)
		}
	}
}
