package roster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/roster"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is one thing that the watch reports.
type told struct {
	entry store.Entry[relay.Connection]
	ready bool
	bad   string
	end   error
}

// bench is a roster whose watch is the test's and whose runners note what they see.
type bench struct {
	*roster.Roster[*worker]
	watch chan told
	stop  context.CancelFunc

	mu       sync.Mutex
	revision uint64
	working  map[string]int // runners at work, by connection
	most     int            // of one connection, ever
	made     []*worker
	slow     time.Duration // how long a runner takes to end
}

// worker is the runner of a bench.
type worker struct {
	b       *bench
	lease   *shard.Lease
	id      string
	fresh   bool
	mu      sync.Mutex
	now     relay.Connection
	changes int
	ran     bool
	ended   bool
	quits   chan struct{} // closed: it ends by itself
}

func (w *worker) Change(c relay.Connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = c
	w.changes++
}

func (w *worker) Turn(ctx context.Context) (time.Duration, bool) {
	w.b.mu.Lock()
	w.ended = ctx.Err() != nil
	if w.ended && !w.ran {
		w.b.mu.Unlock()
		return 0, false
	}
	w.ran = true
	w.b.working[w.id]++
	w.b.most = max(w.b.most, w.b.working[w.id])
	w.b.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-w.quits:
	}
	pass(w.b.slow)
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	w.b.working[w.id]--
	return 0, false
}

// watched is the bucket of a bench.
type watched chan told

func (w watched) Watch(
	ctx context.Context, each func(store.Entry[relay.Connection]), ready func(), bad func(string, error),
) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-w:
			switch {
			case m.end != nil:
				return m.end
			case m.ready:
				ready()
			case m.bad != "":
				bad(m.bad, errors.New("cannot be decoded"))
			default:
				each(m.entry)
			}
		}
	}
}

func (watched) Current(context.Context, []string) []store.Present[relay.Connection] { return nil }

func newBench(ctx context.Context) *bench {
	b := &bench{watch: make(chan told), working: map[string]int{}, slow: 3 * time.Second}
	b.Roster = roster.New(roster.Config[*worker]{
		Connections: watched(b.watch),
		Make: func(lease *shard.Lease, c relay.Connection, fresh bool, _ func()) *worker {
			w := &worker{b: b, lease: lease, id: c.ID, fresh: fresh, now: c, quits: make(chan struct{})}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.made = append(b.made, w)
			return w
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, b.stop = context.WithCancel(ctx)
	go b.Run(ctx)
	return b
}

// put reports that a connection was written, delete that it was removed.
func (b *bench) put(id, generation string, interval float64) store.Entry[relay.Connection] {
	b.revision++
	e := store.Entry[relay.Connection]{Key: id, Revision: b.revision,
		Value: relay.Connection{ID: id, Generation: generation, PollIntervalSeconds: interval}}
	b.tell(told{entry: e})
	return e
}

func (b *bench) delete(id string) {
	b.revision++
	b.tell(told{entry: store.Entry[relay.Connection]{Key: id, Revision: b.revision, Deleted: true}})
}

func (b *bench) ready() { b.tell(told{ready: true}) }

func (b *bench) tell(m told) {
	b.watch <- m
	synctest.Wait()
}

// own holds a shard until the returned function is called, which waits for the drain.
func (b *bench) own(shardOf string, epoch uint64) (giveUp func(), drained <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Own(ctx, shardtest.Fixed(relay.ShardOf(shardOf), epoch))
	}()
	synctest.Wait()
	return cancel, done
}

// at returns the runner of a connection, nil if there is none.
func (b *bench) at(id string) *worker {
	w, _ := b.Runner(id)
	return w
}

// ran reports whether a runner has begun.
func (b *bench) ran(w *worker) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return w.ran
}

func TestRunnersComeAndGoWithConnectionsAndShards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t.Context())
		defer b.stop()
		giveUp, drained := b.own("leeds", 5) // before anything is known
		if b.at("leeds") != nil {
			t.Fatal("a runner for what is not there")
		}
		b.put("leeds", "g1", 1)
		first := b.at("leeds")
		if first == nil || !b.ran(first) || first.lease.Epoch() != 5 || first.fresh {
			t.Fatalf("after the listing: %+v", first)
		}
		b.ready()

		b.put("leeds", "g1", 2) // changed
		if w := b.at("leeds"); w != first || w.changes != 1 || w.now.PollIntervalSeconds != 2 {
			t.Fatalf("changed: %+v", w)
		}
		b.put("leeds", "g2", 2) // made again under the same id
		second := b.at("leeds")
		if second == first || second == nil || b.ran(second) || !second.fresh {
			t.Fatalf("made anew, before the runner of the old one has ended: %+v", second)
		}
		pass(b.slow)
		synctest.Wait()
		if !b.ran(second) {
			t.Fatal("the new one's runner does not begin")
		}
		b.delete("leeds")
		b.put("leeds", "g3", 2)
		third := b.at("leeds")
		if b.ran(third) {
			t.Fatal("begins while the one before stores what it has")
		}

		other, otherDone := b.own("york", 6)
		b.put("york", "g1", 1)
		if w := b.at("york"); w == nil || !w.fresh {
			t.Fatalf("a connection made just now: %+v", w)
		}
		giveUp()
		synctest.Wait()
		if b.at("leeds") != nil || b.at("york") == nil {
			t.Fatal("giving up a shard stops its runners, and no other's")
		}
		select {
		case <-drained:
			t.Fatal("drained while a runner is at work")
		default:
		}
		<-drained
		if b.ran(third) {
			t.Error("began after the shard was given up")
		}
		if !third.ended {
			t.Error("no last turn, by which whoever waits for it learns that it has ended")
		}
		other()
		<-otherDone
		if b.most != 1 {
			t.Errorf("%d runners of one connection at once", b.most)
		}
	})
}

func TestAShardGivenUpAndTakenBackAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t.Context())
		defer b.stop()
		b.put("leeds", "g1", 1)
		b.ready()
		giveUp, drained := b.own("leeds", 5)
		first := b.at("leeds")
		giveUp()
		synctest.Wait()
		again, againDrained := b.own("leeds", 7)
		second := b.at("leeds")
		if second == nil || second == first || second.lease.Epoch() != 7 || second.fresh {
			t.Fatalf("taken back: %+v", second)
		}
		if b.ran(second) {
			t.Fatal("begins while the one before stores what it has")
		}
		<-drained
		synctest.Wait()
		if !b.ran(second) {
			t.Fatal("does not begin")
		}

		// Held twice at once, which nobody should ask for: the second waits for the first.
		third, thirdDrained := b.own("leeds", 9)
		if b.at("leeds") != second {
			t.Fatal("two holders of one shard")
		}
		again()
		<-againDrained
		synctest.Wait()
		if w := b.at("leeds"); w == nil || w.lease.Epoch() != 9 {
			t.Fatalf("the second holder: %+v", w)
		}
		third()
		<-thirdDrained
		if b.most != 1 {
			t.Errorf("%d runners of one connection at once", b.most)
		}
	})
}

func TestAWatchThatIsLostIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t.Context())
		defer b.stop()
		giveUp, drained := b.own("leeds", 5)
		leeds := b.put("leeds", "g1", 1)
		b.put("york", "g1", 1) // of another shard: never made, and not to be made when it is gone
		b.put("leeds-2", "g1", 1)
		b.ready()
		w := b.at("leeds")
		b.tell(told{end: errors.New("lost")})

		b.tell(told{entry: leeds}) // reported again, and unchanged
		b.tell(told{bad: "leeds-2"})
		b.ready()
		if b.at("leeds") != w || w.changes != 0 {
			t.Errorf("told again: %+v", w)
		}
		b.tell(told{end: errors.New("lost")})
		b.ready() // everything was deleted meanwhile
		if b.at("leeds") != nil {
			t.Error("a runner for what was deleted while nobody watched")
		}
		york, yorkDrained := b.own("york", 5)
		if b.at("york") != nil {
			t.Error("a runner for what is gone")
		}
		york()
		<-yorkDrained
		giveUp()
		<-drained
	})
}

func TestARunnerThatEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t.Context())
		defer b.stop()
		b.put("leeds", "g1", 1)
		b.ready()
		giveUp, drained := b.own("leeds", 5)
		close(b.at("leeds").quits)
		pass(b.slow)
		synctest.Wait()
		if b.at("leeds") != nil {
			t.Error("still said to be at work")
		}
		n := 0
		b.Each(func(string, *worker) { n++ })
		if n != 0 {
			t.Errorf("%d runners listed", n)
		}
		giveUp()
		<-drained
	})
}

// Whatever comes and goes in whatever order: no connection ever has two runners at work, and when all is
// quiet, exactly the connections that are there and whose shards are held have one, of their present
// generation, under the present lease.
func TestRosterInvariants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			b := newBench(t.Context())
			defer func() {
				b.stop()
				synctest.Wait()
			}()
			b.slow = time.Duration(rapid.IntRange(0, 4).Draw(rt, "slow")) * time.Second
			ids := []string{"a", "b", "c", "d"}
			there := map[string]string{}
			type hold struct {
				epoch  uint64
				giveUp func()
				done   <-chan struct{}
			}
			held := map[string]hold{} // by an id of the shard; the ids are of different shards
			var epoch uint64
			var draining []<-chan struct{}
			listed := false
			for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
				id := rapid.SampledFrom(ids).Draw(rt, "id")
				switch rapid.SampledFrom([]string{"put", "put", "anew", "delete", "own", "own", "giveUp", "giveUp",
					"wait", "lost", "ready"}).Draw(rt, "step") {
				case "put":
					if there[id] == "" {
						there[id] = fmt.Sprint("g", i)
					}
					b.put(id, there[id], float64(i))
				case "anew":
					there[id] = fmt.Sprint("g", i)
					b.put(id, there[id], float64(i))
				case "delete":
					delete(there, id)
					b.delete(id)
				case "own":
					if _, ok := held[id]; !ok {
						epoch++
						giveUp, done := b.own(id, epoch)
						held[id] = hold{epoch, giveUp, done}
					}
				case "giveUp":
					if h, ok := held[id]; ok {
						h.giveUp()
						draining = append(draining, h.done)
						delete(held, id)
						synctest.Wait()
					}
				case "wait":
					pass(time.Duration(rapid.IntRange(1, 9).Draw(rt, "seconds")) * time.Second)
				case "ready":
					if !listed {
						listed = true
						b.tellAll(there)
					}
				case "lost":
					b.tell(told{end: errors.New("lost")})
					b.tellAll(there)
					listed = true
				}
			}
			pass(time.Minute)
			synctest.Wait()
			for _, id := range ids {
				w := b.at(id)
				h, owned := held[id]
				switch generation := there[id]; {
				case owned != (w != nil) && generation != "":
					rt.Fatalf("%s: owned %v, runner %v", id, owned, w != nil)
				case generation == "" && w != nil:
					rt.Fatalf("%s: a runner for what is gone", id)
				case w != nil && (w.now.Generation != generation || w.lease.Epoch() != h.epoch || !b.ran(w)):
					rt.Fatalf("%s: generation %s under epoch %d, want %s under %d",
						id, w.now.Generation, w.lease.Epoch(), generation, h.epoch)
				}
			}
			for _, h := range held {
				h.giveUp()
				draining = append(draining, h.done)
			}
			for _, done := range draining {
				<-done
			}
			if b.most > 1 {
				rt.Fatalf("%d runners of one connection at once", b.most)
			}
		})
	})
}

// tellAll lists what there is, as a new watch does.
func (b *bench) tellAll(there map[string]string) {
	for id, generation := range there {
		b.put(id, generation, 0)
	}
	b.ready()
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// bubbled hides what may not be called of a testing.T in a synctest bubble.
type bubbled struct{ testing.TB }
