package topology_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

// cut is a JetStream whose requests get no response while it is cut off.
type cut struct {
	jetstream.JetStream
	off   atomic.Bool
	asked atomic.Int64 // while cut off
}

func (c *cut) Options() jetstream.JetStreamOptions {
	o := c.JetStream.Options()
	if c.off.Load() {
		c.asked.Add(1)
		o.APIPrefix = "NOBODY."
	}
	return o
}

// journal is a log that is read while it is written.
type journal struct {
	mu sync.Mutex
	strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Builder.Write(p)
}

func (j *journal) count(s string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.String(), s)
}

// of returns the table of a relay of a version.
func of(version int) topology.Topology {
	t := table
	t.Formats = version
	return t
}

func formats(t *testing.T, js jetstream.JetStream, version int) *topology.Versions {
	t.Helper()
	v, err := topology.OpenFormats(t.Context(), topology.FormatsConfig{
		JS: js, Topology: of(version), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.SetEvery(20 * time.Millisecond)
	return v
}

func member(t testing.TB, js jetstream.JetStream, name string, version int) {
	t.Helper()
	if _, err := js.Publish(t.Context(), "$KV.relay_owners.member."+name,
		fmt.Appendf(nil, `{"replica":%q,"version":%d}`, name, version)); err != nil {
		t.Fatal(err)
	}
}

func leave(t testing.TB, js jetstream.JetStream, name string) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), "relay_owners")
	if err == nil {
		err = kv.Delete(t.Context(), "member."+name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mark(t testing.TB, js jetstream.JetStream) topology.Mark {
	t.Helper()
	m, err := table.ReadMark(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(2*time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}

// running runs Versions until the test's end, or its own; the channel delivers how it ended.
func running(t *testing.T, v *topology.Versions) <-chan error {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() { defer close(done); ended <- v.Run(ctx, nil) }()
	t.Cleanup(func() { stop(); <-done })
	return ended
}

func TestTheMarkIsRaisedWhenTheLastOldRelayHasGone(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, of(2))
	for _, old := range []string{"a", "b"} {
		member(t, js, old, 2)
	}
	older := formats(t, js, 2)
	if older.Current() != 2 {
		t.Fatal(older.Current())
	}
	oldEnds := running(t, older)

	apply(t, js, of(3)) // the first new relay starts beside them
	newer := formats(t, js, 3)
	member(t, js, "c", 3)
	if err := newer.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	newEnds := running(t, newer)
	leave(t, js, "a")
	// One old relay is still there: it may come and go, restart and apply its own table.
	for range 5 {
		apply(t, js, of(2))
		if v := formats(t, js, 2); v.Join(t.Context()) != nil || v.Current() != 2 || newer.Current() != 2 {
			t.Fatal("an old relay does not start, or the mark was raised under it")
		}
	}
	leave(t, js, "b")
	eventually(t, "raised", func() bool { return newer.Current() == 3 })
	if m := mark(t, js); m.Formats != 3 || m.Raising != 0 {
		t.Errorf("%+v", m)
	}
	err := <-oldEnds // one that had no member's record any more, and still ran
	if !errors.Is(err, topology.ErrNewer) {
		t.Errorf("the old relay ended with %v", err)
	}
	err = of(2).Apply(t.Context(), js)
	if !errors.Is(err, topology.ErrNewer) || !strings.Contains(err.Error(),
		"formats version 3, this program knows up to version 2") || strings.Contains(err.Error(), "\n") {
		t.Errorf("an old relay is refused with %v", err)
	}
	if f := found(t, js, of(3), "relay_events"); f.State != topology.StateOK || f.Version != 3 {
		t.Errorf("%+v", f)
	}
	select {
	case err := <-newEnds:
		t.Errorf("the new relay ended: %v", err)
	default:
	}
}

func TestAnOutageIsToldWhenItBeginsAndWhenItEnds(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, of(2))
	var log journal
	away := &cut{JetStream: js}
	v, err := topology.OpenFormats(t.Context(), topology.FormatsConfig{
		JS: away, Topology: of(2), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.SetEvery(time.Millisecond)
	running(t, v)
	for outage := 1; outage <= 2; outage++ {
		away.asked.Store(0)
		away.off.Store(true)
		eventually(t, "asked in vain", func() bool { return away.asked.Load() > 10 })
		away.off.Store(false)
		eventually(t, "the end is told", func() bool { return log.count("level=INFO") == outage })
		if n := log.count("level=WARN"); n != outage {
			t.Errorf("%d warnings of %d outages", n, outage)
		}
	}
}

func TestWithoutALiveRelayNothingIsRaised(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, of(2))
	v := formats(t, js, 3)
	running(t, v)
	member(t, js, "unreadable", 3)
	if _, err := js.Publish(t.Context(), "$KV.relay_owners.member.unreadable", []byte("?")); err != nil {
		t.Fatal(err)
	}
	// What shows that it looked: it took back the step that another had left.
	m := mark(t, js)
	m.Raising = 3
	if _, err := table.WriteMark(t.Context(), js, m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the step is taken back", func() bool { return mark(t, js).Raising == 0 })
	if v.Current() != 2 {
		t.Error("raised")
	}
}

func TestAGapOfVersionsIsRefused(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, of(2))
	if err := of(4).Apply(t.Context(), js); err == nil || !strings.Contains(err.Error(), "reads versions 3 and 4") {
		t.Error(err)
	}
}

// A release that no longer reads version 1 starts on an empty server all the same. It also starts
// on what a first start has left that made some of the streams and came no further.
func TestANewStoreHasTheVersionOfItsFirstRelay(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for range 2 {
		apply(t, js, of(3))
		if m := mark(t, js); m.Formats != 3 {
			t.Fatalf("a new store's mark is %+v", m)
		}
		for _, stream := range []string{"KV_relay_owners", "KV_relay_lanes"} {
			if err := js.DeleteStream(t.Context(), stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := js.Publish(t.Context(), "relay.inbox.56.leeds", []byte("a page")); err != nil {
		t.Fatal(err)
	}
	if err := of(3).Apply(t.Context(), js); err == nil || !strings.Contains(err.Error(), "formats version 1") {
		t.Errorf("documents from before the mark: %v", err)
	}
}

func TestNoRelayStartsOnAStoreThatIsBeingRestored(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	dead, err := table.BeginRestore(t.Context(), js, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrRestoring) ||
		!strings.Contains(err.Error(), "has changed nothing yet") {
		t.Error(err)
	}
	// nothing is lost by taking over from one that has changed nothing
	first, err := table.BeginRestore(t.Context(), js, false)
	if err != nil || first.Resumed {
		t.Fatalf("taken over: %+v, %v", first, err)
	}
	if err := dead.Change(t.Context(), 1); !errors.Is(err, topology.ErrTakenOver) {
		t.Errorf("the one before it goes on with %v", err)
	}
	if err := first.Change(t.Context(), 7200); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "KV_relay_owners"); err != nil { // with the mark in it
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrRestoring) {
		t.Error(err)
	}
	if _, err := table.BeginRestore(t.Context(), js, false); !errors.Is(err, topology.ErrRestoring) {
		t.Errorf("a second restore: %v", err)
	}
	second, err := table.BeginRestore(t.Context(), js, true)
	if err != nil || !second.Resumed {
		t.Fatalf("taken over: %+v, %v", second, err)
	}
	if err := second.Change(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if ahead, err := second.Ahead(t.Context()); err != nil || ahead != 7200 {
		t.Errorf("the second knows of %d, %v", ahead, err)
	}
	if err := second.Withdraw(t.Context()); err != nil {
		t.Error(err)
	}
	if err := first.End(t.Context()); !errors.Is(err, topology.ErrTakenOver) {
		t.Errorf("the first ends with %v", err)
	}
	if err := first.Change(t.Context(), 1); !errors.Is(err, topology.ErrTakenOver) {
		t.Errorf("the first goes on with %v", err)
	}
	if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrRestoring) {
		t.Error(err)
	}
	if err := second.End(t.Context()); err != nil {
		t.Error(err)
	}
	if err := table.Apply(t.Context(), js); err != nil {
		t.Error(err)
	}
}

// A restore that is broken off while it makes its sign leaves none.
func TestABrokenOffBeginningOfARestoreLeavesNoSign(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	for n := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*50*time.Microsecond)
		r, err := table.BeginRestore(ctx, js, false)
		cancel()
		if err == nil {
			err = r.Withdraw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := table.Apply(t.Context(), js); err != nil {
			t.Fatalf("after %d00 µs: %v", n/2, err)
		}
	}
}

// A stream of the sign's name that is another's is neither a restore's nor touched.
func TestAForeignSignIsLeftAlone(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for n, theirs := range []struct {
		subjects, subject string
		metadata          map[string]string
	}{
		{"other.a.>", "other.a.work", nil},
		{"other.b.>", "other.b.work", map[string]string{"relay-restore": "x"}},
		{"relay2.restore.*", "relay2.restore.9223372036854775807", map[string]string{"relay-restore": "x"}},
	} {
		table := table
		table.Prefix = fmt.Sprintf("relay%d", n) // a name that was just deleted may not be free for another stream yet
		c := jetstream.StreamConfig{Name: table.RestoreSign(),
			Subjects: []string{theirs.subjects}, Metadata: theirs.metadata}
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), theirs.subject, []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrForeign) ||
			!errors.Is(err, topology.ErrRefused) {
			t.Errorf("%+v: a relay answers %v", c, err)
		}
		if _, err := table.BeginRestore(t.Context(), js, true); !errors.Is(err, topology.ErrForeign) {
			t.Errorf("%+v: a restore answers %v", c, err)
		}
		stream, err := js.Stream(t.Context(), c.Name)
		if err != nil || stream.CachedInfo().State.Msgs != 1 {
			t.Fatalf("%+v: it was touched: %v", c, err)
		}
	}
}

// A relay that was away for the whole of a restore does not go on with the numbers of before.
func TestARelayEndsWhenABackupWasRestoredBehindItsBack(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	v, err := topology.OpenFormats(t.Context(), topology.FormatsConfig{JS: js, Topology: table, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	v.SetEvery(10 * time.Millisecond)
	if err := v.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := mark(t, js)
	m.Restored, m.Ahead = time.Now(), time.Hour.Microseconds()
	if _, err := table.WriteMark(t.Context(), js, m); err != nil {
		t.Fatal(err)
	}
	if err := v.Run(t.Context(), nil); !errors.Is(err, topology.ErrRefused) || !strings.Contains(err.Error(), "restart it") {
		t.Errorf("it runs on and ends with %v", err)
	}
}

func TestAClockBehindTheRestoreIsRefused(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	m := mark(t, js)
	m.Restored = time.Now().Add(time.Minute)
	if _, err := table.WriteMark(t.Context(), js, m); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), js); err == nil || !strings.Contains(err.Error(), "clock is behind") {
		t.Error(err)
	}
}

// Old relays join at any moment while several new ones raise the mark. In every order of their
// steps, none that has joined finds the mark above its version while its record is there.
func TestNoOldRelayJoinsUnderARaisedMark(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, of(2))
	for round := range 60 {
		m := mark(t, js)
		m.Formats, m.Raising = 2, 0 // as it was before the last round
		if _, err := table.WriteMark(t.Context(), js, m); err != nil {
			t.Fatal(err)
		}
		new1, new2 := formats(t, js, 3), formats(t, js, 3)
		member(t, js, "new", 3)
		ctx, stop := context.WithCancel(t.Context())
		var raisers, joiners sync.WaitGroup
		for _, v := range []*topology.Versions{new1, new2} {
			raisers.Go(func() {
				if err := v.Run(ctx, nil); err != nil {
					t.Error(err)
				}
			})
		}
		joined := make([]bool, 3)
		for i := range joined {
			joiners.Go(func() {
				name := fmt.Sprintf("old%d", i)
				v, err := topology.OpenFormats(t.Context(),
					topology.FormatsConfig{JS: js, Topology: of(2), Log: slog.New(slog.DiscardHandler)})
				if errors.Is(err, topology.ErrNewer) {
					return
				}
				member(t, js, name, 2)
				err = v.Join(t.Context())
				joined[i] = err == nil
				if err != nil {
					leave(t, js, name)
				}
				if err != nil && !errors.Is(err, topology.ErrNewer) {
					t.Error(err)
				}
			})
		}
		joiners.Wait()
		any := joined[0] || joined[1] || joined[2]
		if !any {
			eventually(t, "raised", func() bool { return mark(t, js).Formats == 3 })
		}
		stop()
		raisers.Wait()
		if m := mark(t, js); any && m.Formats != 2 {
			t.Fatalf("round %d: joined %v under %+v", round, joined, m)
		}
		for i := range joined {
			leave(t, js, fmt.Sprintf("old%d", i))
		}
		leave(t, js, "new")
	}
}

// The same in every order that three relays' steps can have, against a model of one stream.
func TestNoOrderOfStepsLetsBothGoOn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type stored struct{ formats, raising, revision int }
		seq, now := 1, stored{formats: 2, revision: 1}
		members := map[string]int{"new": 3}
		write := func(expected int, s stored) bool {
			if now.revision != expected {
				return false
			}
			seq++
			s.revision = seq
			now = s
			return true
		}
		running := map[string]bool{}
		var steps [2]func() bool // each a relay's next step; false when it has ended
		raiser := func() func() bool {
			state, read := 0, stored{}
			return func() bool {
				switch state {
				case 0:
					read, state = now, 1
					if read.formats == 3 {
						return false
					}
				case 1, 3:
					old := false
					for _, v := range members {
						old = old || v < 3
					}
					switch {
					case old && read.raising == 0:
						state = 0
					case old:
						write(read.revision, stored{formats: 2})
						state = 0
					case state == 1 && read.raising == 0:
						state = 2
					default:
						state = 4
					}
				case 2:
					if state = 0; write(read.revision, stored{formats: 2, raising: 3}) {
						read, state = now, 3
					}
				case 4:
					state = 0
					write(read.revision, stored{formats: 3})
				}
				return true
			}
		}
		joiner := func() bool { return false }
		newJoiner := func(name string) func() bool {
			state, read := 0, stored{}
			return func() bool {
				switch state {
				case 0:
					members[name] = 2
					seq++
					state = 1
				case 1:
					read, state = now, 2
					if read.formats > 2 || read.raising > 2 {
						delete(members, name)
						return false
					}
				case 2:
					state = 1
					if write(read.revision, stored{formats: read.formats, raising: read.raising}) {
						running[name] = true
						return false
					}
				}
				return true
			}
		}
		steps[0], steps[1] = raiser(), raiser()
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch who := rapid.IntRange(0, 4).Draw(t, "who"); who {
			case 0, 1:
				if !steps[who]() || rapid.IntRange(0, 9).Draw(t, "dies") == 0 {
					steps[who] = raiser()
				}
			case 2, 3:
				if !joiner() {
					joiner = newJoiner(fmt.Sprintf("old%d", i))
				}
			case 4: // one that runs ends
				if all := slices.Sorted(maps.Keys(running)); len(all) > 0 {
					delete(running, all[0])
					delete(members, all[0])
				}
			}
			if now.formats == 3 && len(running) > 0 {
				t.Fatalf("%v run under formats 3", running)
			}
		}
	})
}

func TestFormatsOnACluster(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t)
	js := newJS(t, cluster.Connect(t))
	three := func(version int) topology.Topology {
		c := of(version)
		c.Replicas = 3
		return c
	}
	var all sync.WaitGroup
	for range 3 {
		js := newJS(t, cluster.Connect(t))
		all.Go(func() {
			if err := natstest.Patiently(func() error { return three(2).Apply(t.Context(), js) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	read, err := three(3).ReadMark(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	stored := atomic.Int64{}
	for range 20 { // at the same moment: a write in flight is waited for, it is neither a conflict nor a failure
		all.Go(func() {
			switch _, err := three(3).WriteMark(t.Context(), js, read); {
			case err == nil:
				stored.Add(1)
			case !errors.Is(err, jetstream.ErrKeyExists):
				t.Error(err)
			}
		})
	}
	if all.Wait(); stored.Load() != 1 {
		t.Errorf("%d of 20 writes over the same revision were stored", stored.Load())
	}
	member(t, js, "a", 3)
	v, err := topology.OpenFormats(t.Context(), topology.FormatsConfig{JS: js, Topology: three(3), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	v.SetEvery(50 * time.Millisecond)
	cluster.Stop(0)
	running(t, v)
	eventually(t, "raised though a node is away", func() bool { return v.Current() == 3 })
}
