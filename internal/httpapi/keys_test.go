package httpapi

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// idOf returns the id of a session's key.
func idOf(s session) string { return strings.Split(s.token, "_")[1] }

// Everybody who has a token finds out whose it is.
func TestMe(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.client("client-a", relay.RoleWrite, "alpha", "beta")
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	var made KeyCreated
	f.admin().post("/v1/clients/client-a/keys",
		map[string]any{"role": "read", "description": "Leeds", "expiresAt": expires}).want(201).into(&made)
	var me Me
	f.as(made.Key).get("/v1/me").want(200).into(&me)
	if me.Role != CallerRoleRead || me.Key.Id != made.Id || me.Key.Description != "Leeds" ||
		!me.Key.ExpiresAt.Equal(expires) ||
		me.Client.Id != "client-a" || fmt.Sprint(me.Client.Sites) != "[alpha beta]" || me.Name != "" {
		t.Errorf("a key is told %+v", me)
	}
	if at := me.Key.LastUsedAt; at != at.Truncate(time.Hour) || time.Since(at) > 2*time.Hour {
		t.Errorf("the key was last used at %s", at)
	}
	if got := f.admin().get("/v1/me").want(200).into(&me); me.Role != CallerRoleAdmin || me.Name != "admin" ||
		strings.Contains(string(got.body), "client") {
		t.Errorf("an administrator is told %s", got.body)
	}
	f.as("").get("/v1/me").want(401)
	f.as("ark_x").get("/v1/me").want(401)
}

// A key of the role manage makes and removes keys of its client, and nothing that is more than it.
func TestAKeyManagesTheKeysOfItsClient(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.client("client-a", relay.RoleWrite, "alpha")
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	var manager, made KeyCreated
	f.admin().post("/v1/clients/client-a/keys",
		map[string]any{"role": "manage", "expiresAt": expires}).want(201).into(&manager)
	m := f.as(manager.Key)
	const keys = "/v1/clients/client-a/keys"

	// What it makes expires with it, or sooner, and is at most a writing key.
	m.post(keys, nil).want(201).into(&made)
	if made.Role != KeyRoleWrite || !made.ExpiresAt.Equal(expires) || made.MadeBy != manager.Id {
		t.Errorf("made %+v", made)
	}
	writer := f.as(made.Key)
	writer.put("/v1/callbacks/cb-a", map[string]any{"url": "https://bms.example/"}).want(201)
	m.patch("/v1/callbacks/cb-a", map[string]any{"description": "by the manager"}).want(200)
	m.post(keys, map[string]any{"expiresAt": expires.Add(time.Second)}).want(422).problem("invalid-body", "/expiresAt")
	m.post(keys, map[string]any{"expiresAt": expires.Add(-time.Minute)}).want(201)
	m.post(keys, map[string]any{"role": "manage"}).want(403).problem("role-not-allowed")
	m.post(keys, map[string]any{"role": "admin"}).want(422)
	first := m.post(keys, map[string]any{"role": "read"}, "Idempotency-Key", "once").want(201)
	if again := m.post(keys, map[string]any{"role": "read"}, "Idempotency-Key",
		"once").want(201); string(again.body) != string(first.body) {
		t.Errorf("sent again it is another key: %s", again.body)
	}

	// It removes keys of the lesser roles, whoever made them, and no managing key.
	other := f.key("client-a", relay.RoleRead)
	m.delete(keys + "/" + idOf(other)).want(204)
	other.get("/v1/me").want(401)
	m.delete(keys + "/" + idOf(other)).want(404)
	m.delete(keys + "/" + manager.Id).want(403).problem("role-not-allowed")
	m.delete(keys + "/" + idOf(f.key("client-a", relay.RoleManage))).want(403).problem("role-not-allowed")

	// Nothing else of administrators exists for it.
	for _, path := range []string{"/v1/clients", "/v1/clients/client-a", "/v1/connections", "/v1/unresolved"} {
		m.get(path).want(404)
	}
	m.put("/v1/clients/client-a", map[string]any{"allSites": true}).want(404)

	// Revoked, it takes along what it made, and nothing else.
	kept := f.key("client-a", relay.RoleRead)
	f.admin().delete(keys + "/" + manager.Id).want(204)
	for _, s := range []session{m, writer} {
		s.get("/v1/me").want(401)
	}
	kept.get("/v1/me").want(200)
	var list KeyList
	f.admin().get(keys).want(200).into(&list)
	for _, k := range list.Items {
		if used := !k.LastUsedAt.IsZero(); used != (k.Id == idOf(kept)) {
			t.Errorf("key %s: used %t", k.Id, used)
		}
		if k.MadeBy == manager.Id {
			t.Errorf("%s has outlived the key that made it", k.Id)
		}
	}
}

// A key that another replica has revoked makes nothing any more, though this replica does not know
// of it yet.
func TestARevokedKeyMakesNoKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.client("client-a", relay.RoleWrite, "alpha")
	m := f.key("client-a", relay.RoleManage)
	var revoked atomic.Bool
	before := func(w store.Write) error {
		if !strings.Contains(w.Subject, "_clients.client-a") || revoked.Swap(true) {
			return nil
		}
		c, revision, err := f.store.Clients.GetAtLeader(t.Context(), "client-a")
		if err == nil {
			c.Keys = c.Keys[:1]
			_, err = f.store.Clients.Update(t.Context(), c.ID, c, revision)
		}
		if err != nil {
			t.Error(err)
		}
		return nil
	}
	f.hooks.before.Store(&before)
	m.post("/v1/clients/client-a/keys", nil).want(401)
	var list KeyList
	f.admin().get("/v1/clients/client-a/keys").want(200).into(&list)
	if len(list.Items) != 1 || !revoked.Load() {
		t.Errorf("keys: %+v", list.Items)
	}
}
