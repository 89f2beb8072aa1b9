package access_test

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewKeysAreOfTheirFormAndDiffer(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^ark_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}$`)
	seen := map[string]bool{}
	for range 1000 {
		text, key := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
		if id, ok := access.KeyID(text); !form.MatchString(text) || !ok || id != key.ID {
			t.Fatalf("%q of %q is not of the form", text, key.ID)
		}
		if seen[text] || seen[key.ID] {
			t.Fatal("the same key twice")
		}
		seen[text], seen[key.ID] = true, true
		if strings.Contains(string(key.Hash), text) || len(key.Hash) != 32 {
			t.Fatal("more than a hash is kept")
		}
	}
	for _, odd := range []string{"", "ark_", "ark__", "ark_a_b", "xrk_aaaaaaaaaaaa_" + strings.Repeat("0", 43),
		"ark_" + strings.Repeat("a", 100) + "_" + strings.Repeat("0", 43)} {
		if _, ok := access.KeyID(odd); ok {
			t.Errorf("%q passes as a key", odd)
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	var changed []string
	k := access.New(access.Config{Log: slog.New(slog.DiscardHandler), Changed: func(client string) {
		changed = append(changed, client)
	}})
	now := time.Now()
	text, key := accesstest.NewKey(relay.RoleWrite, "", now, nil)
	other, otherKey := accesstest.NewKey(relay.RoleRead, "", now, nil)
	ended := now.Add(-time.Second)
	old, oldKey := accesstest.NewKey(relay.RoleRead, "", now, &ended)
	c := relay.Client{ID: "a", Sites: []string{"alpha"}, Keys: []relay.Key{key, otherKey, oldKey}}
	k.Put(c, 5)
	finds := func(id, text string) bool {
		t.Helper()
		client, found, ok := k.Lookup(id, text)
		if ok && (client.ID != "a" || found.ID != id) {
			t.Errorf("the key of %s is taken for %s of %s", id, found.ID, client.ID)
		}
		return ok
	}
	if !finds(key.ID, text) || !finds(otherKey.ID, other) {
		t.Error("valid keys are refused")
	}
	if finds(key.ID, other) || finds(otherKey.ID, text) || finds(oldKey.ID, old) || finds(key.ID, "") ||
		finds("", text) || finds(key.ID, text+"x") {
		t.Error("an invalid key passes")
	}
	c.Keys = []relay.Key{otherKey}
	k.Put(c, 4) // older than what is known: a slow watch
	if !finds(key.ID, text) {
		t.Error("an older document counts")
	}
	k.Put(c, 6)
	if finds(key.ID, text) || !finds(otherKey.ID, other) {
		t.Error("a revoked key passes, or another was revoked with it")
	}
	k.Removed("a", 6)
	k.Put(c, 6)
	if _, known := k.Client("a"); finds(otherKey.ID, other) || known {
		t.Error("a removed client comes back")
	}
	k.Put(c, 8)
	if _, known := k.Client("a"); !finds(otherKey.ID, other) || !known {
		t.Error("a client made anew is not known")
	}
	if got := strings.Join(changed, ""); got != "aaaa" {
		t.Errorf("changes told: %q", got)
	}
}

// Through the bucket, as another replica's changes come.
func TestRunFollowsTheBucket(t *testing.T) {
	t.Parallel()
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(raw)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Sealer: sealer, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	text, key := accesstest.NewKey(relay.RoleWrite, "", time.Now(), nil)
	before := relay.Client{ID: "before", Keys: []relay.Key{key}}
	if _, err := s.Clients.Create(t.Context(), before.ID, before); err != nil {
		t.Fatal(err)
	}
	changed := make(chan string, 10)
	k := access.New(access.Config{Clients: s.Clients, Log: log, Changed: func(client string) { changed <- client }})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	defer running.Wait()
	defer cancel()
	wait := func(client string) {
		t.Helper()
		select {
		case got := <-changed:
			if got != client {
				t.Fatalf("%s changed, not %s", got, client)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no change of %s", client)
		}
	}
	<-k.Ready()
	wait("before")
	if _, _, ok := k.Lookup(key.ID, text); !ok {
		t.Error("what was there before is not known")
	}
	if _, err := s.Clients.Create(t.Context(), "after", relay.Client{ID: "after"}); err != nil {
		t.Fatal(err)
	}
	wait("after")
	if err := s.Clients.Delete(t.Context(), "before", 0); err != nil {
		t.Fatal(err)
	}
	wait("before")
	if _, _, ok := k.Lookup(key.ID, text); ok {
		t.Error("a removed client's key passes")
	}
}
