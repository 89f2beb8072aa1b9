package access_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/api/schematest"
	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// usesEvery is short, so that a test need not wait for a minute.
const usesEvery = 20 * time.Millisecond

// replicas is a store, and what each of several replicas has of keys and their uses.
type replicas struct {
	*store.Store
}

func openReplicas(t *testing.T) replicas {
	t.Helper()
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Sealer: sealer,
		Log:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return replicas{s}
}

// start starts one more replica. Stop ends it as a process does on a signal.
func (r replicas) start(t *testing.T) (keys *access.Keys, stop func()) {
	t.Helper()
	return r.startAhead(t, 0)
}

// startAhead starts one whose clock is ahead.
func (r replicas) startAhead(t *testing.T, ahead time.Duration) (keys *access.Keys, stop func()) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	uses := access.NewUses(access.UsesConfig{Bucket: r.Uses, Clients: r.Clients, Every: usesEvery, Log: log,
		Now: func() time.Time { return time.Now().Add(ahead) }})
	keys = access.New(access.Config{Clients: r.Clients, Uses: uses, Log: log})
	publishing := publisher.New(publisher.Config{Store: r.Store, Location: time.UTC,
		Metrics: publisher.NewMetrics(nil), Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { keys.Run(ctx) })
	running.Go(func() { uses.Run(ctx, keys, publishing) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	<-keys.Ready()
	return keys, stop
}

// detailsOf returns the details of an operational event.
func detailsOf(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var ev struct{ Data relay.Operational }
	if err := json.Unmarshal(body, &ev); err != nil {
		t.Fatal(err)
	}
	return ev.Data.Details
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); backoff.Sleep(t.Context(), 5*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after a minute: %s", what)
		}
	}
}

// Two replicas see uses of two keys of one client, and each shows both.
func TestUsesOfAllReplicasAreMerged(t *testing.T) {
	t.Parallel()
	r := openReplicas(t)
	one, first := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
	two, second := accesstest.NewKey(relay.RoleWrite, "", time.Now(), nil)
	_, unused := accesstest.NewKey(relay.RoleWrite, "", time.Now(), nil)
	client := relay.Client{ID: "acme", Generation: "g1", Keys: []relay.Key{first, second, unused}}
	revision, err := r.Clients.Create(t.Context(), client.ID, client)
	if err != nil {
		t.Fatal(err)
	}
	a, stop := r.start(t)
	b, _ := r.start(t)
	used := func(k *access.Keys, key relay.Key) bool {
		at, used := k.LastUsed(client, key.ID)
		if used && (time.Since(at) > 2*time.Hour || at != at.Truncate(time.Hour)) {
			t.Errorf("last used at %s", at)
		}
		return used
	}
	if _, _, ok := a.Lookup(first.ID, one); !ok || !used(a, first) {
		t.Error("a replica does not know of a use that it has seen")
	}
	a.Lookup(second.ID, one) // a wrong secret is no use
	if used(a, second) {
		t.Error("a refused key was used")
	}
	eventually(t, "the other replica knows of the use", func() bool { return used(b, first) })
	if _, _, ok := b.Lookup(second.ID, two); !ok {
		t.Error("the second key is refused")
	}
	stop() // what it has not stored yet it stores now
	c, _ := r.start(t)
	eventually(t, "a new replica knows of both uses", func() bool { return used(c, first) && used(c, second) })
	if used(c, unused) {
		t.Error("an unused key was used")
	}

	// What is made again under the id inherits nothing, and what the client had goes.
	if err := r.Clients.Delete(t.Context(), client.ID, revision); err != nil {
		t.Fatal(err)
	}
	client.Generation = "g2"
	if used(c, first) {
		t.Error("a client that was made again has the uses of the one before")
	}
	eventually(t, "the uses are removed with the client", func() bool {
		entries, err := r.Uses.All(t.Context(), "", nil)
		return err == nil && len(entries) == 0
	})
}

// Several replicas and restarts warn of each expiry once, of the one that is near.
func TestExpiringKeysAreWarnedOfOnce(t *testing.T) {
	t.Parallel()
	r := openReplicas(t)
	now, day := time.Now(), 24*time.Hour
	key := func(id string, made, expires time.Duration) relay.Key {
		at := now.Add(expires)
		return relay.Key{ID: id, Role: relay.RoleRead, CreatedAt: now.Add(made), ExpiresAt: &at}
	}
	client := relay.Client{ID: "acme", Generation: "g1", Keys: []relay.Key{
		key("month", -100*day, 29*day), key("new", -day/2, 29*day), key("week", -100*day, 6*day),
		key("day", -100*day, day/2), key("later", -100*day, 31*day), key("over", -100*day, -day), {ID: "never"},
		key("short", -day, 5*day), key("ending", -4*day, day*13/10), // the last quarter of its life
		key("quarter", -70*day, 20*day), key("hours", -4*day/24, day/24),
	}}
	if _, err := r.Clients.Create(t.Context(), client.ID, client); err != nil {
		t.Fatal(err)
	}
	want := []string{"acme g1 day 1", "acme g1 ending 7", "acme g1 hours 1", "acme g1 month 30",
		"acme g1 quarter 30", "acme g1 week 7"}
	warned := func() []string { return r.warned(t) }
	stored := func() bool {
		doc, _, err := r.Uses.Get(t.Context(), client.ID)
		warned := 0
		for _, use := range doc.Keys {
			if use.Warned > 0 {
				warned++
			}
		}
		return err == nil && warned == len(want)
	}
	_, stop := r.start(t)
	r.start(t)
	eventually(t, "all warnings are noted", stored)
	if got := warned(); !slices.Equal(got, want) {
		t.Errorf("warned of %q, want %q", got, want)
	}

	schematest.Log(t, r.Store)

	// A crash before it was noted: the log has it.
	stop()
	if err := r.Uses.Set(t.Context(), client.ID, relay.KeyUses{Generation: "g1"}); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	eventually(t, "all warnings are noted again", stored)
	if got := warned(); !slices.Equal(got, want) {
		t.Errorf("after a crash warned of %q, want %q", got, want)
	}
}

// warned returns of which keys was warned, in alphabetical order.
func (r replicas) warned(t *testing.T) (list []string) {
	t.Helper()
	events, _, err := r.Events.Scan(t.Context(), 1,
		[]string{topology.OperationalSubject(relay.NoSite, string(relay.KindKeyExpiring), "*")}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		d := detailsOf(t, ev.Body)
		list = append(list, fmt.Sprint(d["client"], " ", d["clientGeneration"], " ", d["key"], " ", d["days"]))
	}
	slices.Sort(list)
	return list
}

// A replica whose clock is ahead warns of nothing whose time has not come, and what one has noted
// keeps no warning or use back.
func TestAClockThatIsAheadWarnsOfNothing(t *testing.T) {
	t.Parallel()
	r := openReplicas(t)
	now, day := time.Now(), 24*time.Hour
	month, later := now.Add(29*day), now.Add(40*day)
	text, used := accesstest.NewKey(relay.RoleRead, "", now, nil)
	client := relay.Client{ID: "acme", Generation: "g1", Keys: []relay.Key{
		{ID: "month", CreatedAt: now.Add(-day * 100), ExpiresAt: &month},
		{ID: "later", CreatedAt: now.Add(-day * 100), ExpiresAt: &later}, used,
	}}
	if _, err := r.Clients.Create(t.Context(), client.ID, client); err != nil {
		t.Fatal(err)
	}
	early := relay.HourOf(now) + 500
	err := r.Uses.Set(t.Context(), client.ID, relay.KeyUses{Generation: "g1", Keys: map[string]relay.KeyUse{
		"month": {Warned: 7}, "later": {Warned: 30}, used.ID: {Hour: early}, "gone": {Hour: 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.startAhead(t, 20*day)
	keys, _ := r.start(t)
	if _, there := keys.LastUsed(client, used.ID); there {
		t.Error("a key was used in the future")
	}
	if _, _, ok := keys.Recheck(used.ID, text); !ok {
		t.Error("a key is refused")
	}
	for range 5 { // each time, rounds of the replica with the right clock are over
		eventually(t, "the warning whose time has come is noted", func() bool {
			doc, _, err := r.Uses.Get(t.Context(), client.ID)
			return err == nil && doc.Keys["month"].Warned == 30 && doc.Keys["later"].Warned == 0
		})
		backoff.Sleep(t.Context(), 2*usesEvery)
	}
	if got := r.warned(t); !slices.Equal(got, []string{"acme g1 month 30"}) {
		t.Errorf("warned of %q", got)
	}
	if _, there := keys.LastUsed(client, used.ID); there {
		t.Error("a second look at a key is a use of it")
	}
	if _, _, ok := keys.Lookup(used.ID, text); !ok {
		t.Error("a key is refused")
	}
	eventually(t, "the use is stored, and what was noted of a key that is gone is removed", func() bool {
		doc, _, err := r.Uses.Get(t.Context(), client.ID)
		_, there := doc.Keys["gone"]
		hour := doc.Keys[used.ID].Hour
		return err == nil && !there && hour > 0 && hour < early
	})
}

// A copy of the client that lags does not know a key that another replica has noted.
func TestWhatACopyDoesNotKnowIsKept(t *testing.T) {
	t.Parallel()
	lagging := relay.Client{ID: "acme", Generation: "g1", Keys: []relay.Key{{ID: "old"}}}
	doc := relay.KeyUses{Generation: "g1", Keys: map[string]relay.KeyUse{"old": {Hour: 1}, "new": {Hour: 2}}}
	next, changed := access.Merged(lagging, doc, map[string]relay.KeyUse{"old": {Hour: 3}}, time.Now())
	if !changed || next.Keys["old"].Hour != 3 || next.Keys["new"].Hour != 2 {
		t.Errorf("%+v", next)
	}
	lagging.Generation = "g2"
	if next, _ := access.Merged(lagging, doc, nil, time.Now()); len(next.Keys) != 0 {
		t.Errorf("of another generation: %+v", next)
	}
}
