package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// known is what a mirror's OnChange was called with, and so must be what the mirror has.
type known struct {
	mu   sync.Mutex
	docs map[string]string
	bad  []string
}

func (k *known) change(before, now *store.Entry[relay.Connection]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.docs == nil {
		k.docs = map[string]string{}
	}
	if before != nil {
		if k.docs[before.Key] != before.Value.Site {
			k.bad = append(k.bad,
				fmt.Sprintf("%s changes from %q, which was %q", before.Key, before.Value.Site, k.docs[before.Key]))
		}
		delete(k.docs, before.Key)
	}
	if now != nil {
		if _, there := k.docs[now.Key]; there {
			k.bad = append(k.bad, now.Key+" comes, and is there")
		}
		k.docs[now.Key] = now.Value.Site
	}
}

func mirrorOf(t *testing.T, s *store.Store, k *known) (*store.Mirror[relay.Connection], context.CancelFunc) {
	t.Helper()
	m := store.NewMirror(store.MirrorConfig[relay.Connection]{
		Bucket: s.Connections, Log: slog.New(slog.DiscardHandler), What: "connection", OnChange: k.change,
		Group: func(c relay.Connection) string { return c.Site },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	stop := func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return m, stop
}

// Writers change, remove and create the same documents again. Each reports its own writes to one of
// two mirrors, late and in any order. Both mirrors end with what the bucket has, and the changes
// they reported add up to the same.
func TestAMirrorEndsWithWhatTheBucketHas(t *testing.T) {
	t.Parallel()
	s := openStoreOn(t, natstest.Start(t))
	var first, second known
	a, _ := mirrorOf(t, s, &first)
	b, _ := mirrorOf(t, s, &second)
	var writing sync.WaitGroup
	for w := range 4 {
		writing.Go(func() {
			mirror := []*store.Mirror[relay.Connection]{a, b}[w%2]
			random := rand.New(rand.NewPCG(uint64(w), 7))
			var later []func()
			for i := range 150 {
				key := fmt.Sprintf("c-%d", random.IntN(6))
				c := relay.Connection{ID: key, Site: fmt.Sprintf("site-%d-%d", w, i%5)}
				_, at, err := s.Connections.Get(t.Context(), key)
				var tell func()
				switch {
				case err != nil:
					if revision, err := s.Connections.Create(t.Context(), key, c); err == nil {
						tell = func() { mirror.Put(key, c, revision) }
					}
				case random.IntN(3) == 0:
					if err := s.Connections.Delete(t.Context(), key, at); err == nil {
						tell = func() { mirror.Removed(key, at) }
					}
				default:
					if revision, err := s.Connections.Update(t.Context(), key, c, at); err == nil {
						tell = func() { mirror.Put(key, c, revision) }
					}
				}
				if tell != nil {
					later = append(later, tell)
				}
				if len(later) > 3 {
					i := random.IntN(len(later))
					later[i]()
					later = slices.Delete(later, i, i+1)
				}
			}
			for _, tell := range later {
				tell()
			}
		})
	}
	writing.Wait()
	all, err := s.Connections.All(t.Context(), "", func(key string, err error) { t.Error(key, err) })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{}
	for _, e := range all {
		want[e.Key] = e.Revision
	}
	for name, m := range map[string]*store.Mirror[relay.Connection]{"first": a, "second": b} {
		until(t, "the "+name+" mirror is complete", func() bool {
			page, _ := m.Page("", "", 100, nil)
			if len(page) != len(want) {
				return false
			}
			for _, e := range page {
				if want[e.Key] != e.Revision {
					return false
				}
			}
			return true
		})
	}
	for _, e := range all {
		for _, k := range []*known{&first, &second} {
			k.mu.Lock()
			if k.docs[e.Key] != e.Value.Site {
				t.Errorf("%s was told as %q, and is %q", e.Key, k.docs[e.Key], e.Value.Site)
			}
			if len(k.docs) != len(all) || len(k.bad) > 0 {
				t.Errorf("told: %v, wrong: %v", k.docs, k.bad)
			}
			k.mu.Unlock()
		}
		if got := a.Keys(e.Value.Site); !slices.Contains(got, e.Key) || a.Count(e.Value.Site) != len(got) {
			t.Errorf("%s is not in its group %s: %v", e.Key, e.Value.Site, got)
		}
	}
}

func TestAMirrorsPages(t *testing.T) {
	t.Parallel()
	m := store.NewMirror(store.MirrorConfig[relay.Connection]{Group: func(c relay.Connection) string { return c.Site }})
	for i, key := range []string{"d", "b", "a", "c", "e"} {
		m.Put(key, relay.Connection{ID: key, Site: []string{"odd", "even"}[i%2]}, uint64(i+1))
	}
	keys := func(group, after string, limit int, pass func(relay.Connection) bool) string {
		page, more := m.Page(group, after, limit, pass)
		var b strings.Builder
		for _, e := range page {
			b.WriteString(e.Key)
		}
		if more {
			b.WriteString("+")
		}
		return b.String()
	}
	notB := func(c relay.Connection) bool { return c.ID != "b" }
	for _, c := range []struct{ got, want string }{
		{keys("", "", 2, nil), "ab+"}, {keys("", "b", 2, nil), "cd+"}, {keys("", "bb", 3, nil), "cde"},
		{keys("", "e", 3, nil), ""},
		{keys("odd", "", 9, nil), "ade"}, {keys("even", "b", 9, nil), "c"}, {keys("none", "", 9, nil), ""},
		{keys("", "", 2, notB), "ac+"},
		{keys("", "c", 2, notB), "de"},
	} {
		if c.got != c.want {
			t.Errorf("a page is %q, want %q", c.got, c.want)
		}
	}
	m.Put("a", relay.Connection{ID: "a", Site: "even"}, 9)
	m.Removed("c", 10)
	if got := keys("even", "", 9, nil) + "|" + keys("odd", "", 9, nil); got != "ab|de" {
		t.Errorf("after a change of group and a removal: %s", got)
	}
}

// Read takes in what the bucket's leader has: what nobody has reported to the mirror, and that
// something is gone, with its marker or without.
func TestAMirrorReadsWhatItWasNotToldOf(t *testing.T) {
	t.Parallel()
	s := openStoreOn(t, natstest.Start(t))
	// Run is not called: nothing is watched
	m := store.NewMirror(store.MirrorConfig[relay.Connection]{Bucket: s.Connections})
	read := func(key, site string, there bool) {
		t.Helper()
		e, ok, err := m.Read(t.Context(), key)
		if known, knows := m.Get(key); err != nil || ok != there || e.Value.Site != site || knows != there ||
			known.Revision != e.Revision {
			t.Errorf("%s reads as %q, %v, %v; want %q, %v", key, e.Value.Site, ok, err, site, there)
		}
	}
	read("a", "", false)
	revision, err := s.Connections.Create(t.Context(), "a", relay.Connection{ID: "a", Site: "first"})
	if err != nil {
		t.Fatal(err)
	}
	read("a", "first", true)
	if err := s.Connections.Delete(t.Context(), "a", revision); err != nil {
		t.Fatal(err)
	}
	read("a", "", false)
	m.Put("a", relay.Connection{ID: "a"}, revision) // reported late: it is gone
	if _, there := m.Get("a"); there {
		t.Error("what was removed is there again")
	}
	m.Put("b", relay.Connection{ID: "b"}, revision+100) // its marker has expired
	read("b", "", false)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	m.Put("c", relay.Connection{ID: "c", Site: "before"}, 1)
	if e, there, err := m.Read(ended, "c"); err == nil || !there || e.Value.Site != "before" {
		t.Errorf("when it cannot be read: %q, %v, %v", e.Value.Site, there, err)
	}
}

// What was removed without a trace, as when a marker has expired while the watch was cut off, is
// forgotten with the next list: in the same watch, and in one that begins later. A document can be
// created over a marker, and when there is none any more.
func TestARemovalIsSeenThoughItsMarkerHasExpired(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	s := openStoreOn(t, nc)
	stream := streamOn(t, nc, "KV_relay_connections")
	vanish := func(key string) {
		t.Helper()
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.relay_connections."+key)); err != nil {
			t.Fatal(err)
		}
	}
	store.SetRelist(s.Connections, 50*time.Millisecond)
	var k known
	m, stop := mirrorOf(t, s, &k)
	for _, key := range []string{"a", "b", "c"} {
		if _, err := s.Connections.Create(t.Context(), key, relay.Connection{ID: key}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "three connections", func() bool { return m.Count("") == 3 })
	vanish("a")
	until(t, "a is forgotten", func() bool { _, there := m.Get("a"); return !there && m.Count("") == 2 })

	stop()
	vanish("b")
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { m.Run(ctx) })
	until(t, "b is forgotten", func() bool { return m.Count("") == 1 })

	for _, key := range []string{"a", "c"} { // without a marker, and over one
		if key == "c" {
			_, revision, err := s.Connections.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Connections.Delete(t.Context(), key, revision); err != nil {
				t.Fatal(err)
			}
			until(t, "c is gone", func() bool { return m.Count("") == 1 })
		}
		if _, err := s.Connections.Create(t.Context(), key, relay.Connection{ID: key, Site: "again"}); err != nil {
			t.Fatal(err)
		}
		until(t, key+" is back", func() bool { e, there := m.Get(key); return there && e.Value.Site == "again" })
	}
	cancel()
	running.Wait()
	if k.mu.Lock(); len(k.bad) > 0 || len(k.docs) != 2 {
		t.Errorf("told: %v, wrong: %v", k.docs, k.bad)
	}
	k.mu.Unlock()
}

// Each bucket whose documents come and go keeps the marker of a removed one for its time only.
func TestMarkersExpire(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	s := openStoreOn(t, nc)
	remove := map[string]func(key string) error{
		"connections": func(key string) error { return s.Connections.Delete(t.Context(), key, 0) },
		"clients":     func(key string) error { return s.Clients.Delete(t.Context(), key, 0) },
		"callbacks":   func(key string) error { return s.Callbacks.Delete(t.Context(), key, 0) },
		"tokens":      func(key string) error { return s.Tokens.Delete(t.Context(), key, 0) },
		"polls":       func(key string) error { return s.Polls.Delete(t.Context(), key, 0) },
		"unresolved":  func(key string) error { return s.Unresolved.Delete(t.Context(), key, 0) },
		"lanes":       func(key string) error { return s.Lanes.Delete(t.Context(), key, 0) },
		"cursors":     func(key string) error { return s.Cursors.Delete(t.Context(), key, 0) },
	}
	for bucket, remove := range remove {
		if err := remove("gone"); err != nil {
			t.Errorf("remove from %s: %v", bucket, err)
			continue
		}
		marker, err := streamOn(t, nc, "KV_relay_"+bucket).GetLastMsgForSubject(t.Context(), "$KV.relay_"+bucket+".gone")
		if err != nil {
			t.Fatal(err)
		}
		if ttl := marker.Header.Get("Nats-TTL"); ttl != topology.MarkerTTL.String() && ttl != "3600" ||
			marker.Header.Get("KV-Operation") != "PURGE" {
			t.Errorf("%s: the marker has %v", bucket, marker.Header)
		}
	}
}

// streamOn returns a stream of the server, past the store.
func streamOn(t *testing.T, nc *nats.Conn, name string) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func openStoreOn(t *testing.T, nc *nats.Conn) *store.Store {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A server that loses what was written last, as in a power cut, gives the revisions of it out again. A mirror then has
// what is stored, though it knew of later revisions, and what is written under them.
func TestAMirrorFollowsAServerThatLostItsLastWrites(t *testing.T) {
	t.Parallel()
	const payload = 1 << 20
	server := natstest.StartLimited(t, payload)
	s, err := store.Open(t.Context(), store.Config{
		Conn: server.Conn(), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var k known
	m, _ := mirrorOf(t, s, &k)
	has := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			clear(got)
			for _, key := range m.Keys("") {
				if e, there := m.Get(key); there {
					got[key] = e.Value.Site
				}
			}
			k.mu.Lock()
			heard := maps.Equal(k.docs, want)
			k.mu.Unlock()
			if heard && maps.Equal(got, want) {
				return
			}
			<-time.After(5 * time.Millisecond)
		}
		t.Fatalf("the mirror has %v, and was heard to have %v, want %v", got, k.docs, want)
	}
	put := func(key, site string) uint64 {
		t.Helper()
		e := s.Connections.Current(t.Context(), []string{key})[0]
		result := s.Connections.PutAll(t.Context(), []store.Put[relay.Connection]{
			{Key: key, Value: relay.Connection{ID: key, Site: site}, Revision: e.Revision}})[0]
		if e.Err != nil || result.Err != nil {
			t.Fatal(e.Err, result.Err)
		}
		return result.Seq
	}
	put("changed", "before")
	removed := put("removed", "before")
	has(map[string]string{"changed": "before", "removed": "before"})
	copied := server.Copy()
	put("changed", "lost")
	if err := s.Connections.Delete(t.Context(), "removed", removed); err != nil {
		t.Fatal(err)
	}
	last := put("made", "lost")
	has(map[string]string{"changed": "lost", "made": "lost"})

	server.Lose(payload, copied)
	has(map[string]string{"changed": "before", "removed": "before"})
	if again := put("changed", "after"); again > last {
		t.Errorf("written at revision %d, want one of those that were lost, up to %d", again, last)
	}
	has(map[string]string{"changed": "after", "removed": "before"})
	if len(k.bad) > 0 {
		t.Error(k.bad)
	}
}
