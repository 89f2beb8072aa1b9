package httpapi

import (
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// A waiting request ends when its key does, for any reason, and returns no event after that.
func TestRevocationEndsALongPoll(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	poll := func(s session) chan answer {
		t.Helper()
		done := make(chan answer, 1)
		before := f.waiting()
		go func() { done <- s.get("/v1/events?waitSeconds=60") }()
		eventually(t, func() bool { return f.waiting() == before+1 })
		return done
	}
	ends := func(what string, done chan answer, status int) {
		t.Helper()
		select {
		case got := <-done:
			if got.want(status); status == 401 {
				got.problem("unauthorized")
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: still waiting", what)
		}
	}
	other := poll(f.client("client-z", relay.RoleRead, "alpha"))

	a := f.client("client-a", relay.RoleRead, "alpha")
	done := poll(a)
	f.admin().delete("/v1/clients/client-a/keys/" + strings.Split(a.token, "_")[1]).want(204)
	ends("the key is revoked", done, 401)

	b := f.client("client-b", relay.RoleRead, "alpha")
	done = poll(b)
	if err := f.store.Clients.Delete(t.Context(), "client-b", 0); err != nil { // by another replica
		t.Fatal(err)
	}
	ends("the client is removed", done, 401)

	f.client("client-c", relay.RoleRead, "alpha")
	var made KeyCreated
	f.admin().post("/v1/clients/client-c/keys",
		map[string]any{"role": "read",
			"expiresAt": time.Now().Add(1500 * time.Millisecond).Format(time.RFC3339Nano)}).want(201).into(&made)
	ends("the key expires", poll(f.as(made.Key)), 401)

	d := f.client("client-d", relay.RoleRead, "alpha", "beta")
	done = poll(d)
	f.admin().put("/v1/clients/client-d", map[string]any{"sites": []string{"beta"}}).want(200)
	ends("a site is taken away", done, 200)

	f.publish("alpha", orderA)
	ends("nothing happened to the key", other, 200)
}

// What was read while the client still had a site is checked again before it is returned.
func TestAnswersAreJudgedByTheKeyAsItIsNow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.client("client-a", relay.RoleWrite, "alpha")
	client, _ := f.keys.Client("client-a")
	old := caller{client: client, key: client.Keys[0]}
	if now, err := f.api.present(old); err != nil || !now.seesTheSame(old) {
		t.Fatalf("unchanged: %v", err)
	}
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"beta"}}).want(200)
	if now, err := f.api.present(old); err != nil || now.seesTheSame(old) || now.maySeeSite("alpha") {
		t.Errorf("another site: %v", err)
	}
	ended := old
	ended.key.Hash = []byte("another key of the same id")
	if _, err := f.api.present(ended); err == nil {
		t.Error("another key of the same id passes")
	}
	ended = old
	ended.client.Generation = "before it was removed and made again"
	if _, err := f.api.present(ended); err == nil {
		t.Error("a key of an earlier client of the id passes")
	}
	f.admin().delete("/v1/clients/client-a/keys/" + strings.Split(s.token, "_")[1]).want(204)
	if _, err := f.api.present(old); err == nil {
		t.Error("a revoked key passes")
	}
}
