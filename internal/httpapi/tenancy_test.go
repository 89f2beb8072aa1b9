package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// expectation is how an operation treats callers. Every operation of the contract must have one.
type expectation int

const (
	public    expectation = iota // everybody
	adminOnly                    // for keys it does not exist
	ownList                      // for every key, which finds only its own
	ownRead                      // the owner's keys; for others it does not exist
	// the owner's writing keys; for others it does not exist. Reading keys are refused in any
	// case
	ownChange
	makesOwn  // every writing key, for itself
	makesAtID // as makesOwn on a free id, as ownChange on one that is taken
	ownManage // the client's managing keys; for others' it does not exist. Other keys are refused in any case
)

var expectations = map[string]expectation{
	"livez": public, "readyz": public, "openapi": public, "openapiJson": public,
	"asyncapi": public, "start": public, "docs": public, "docsEvent": public, "docsStyle": public, "schema": public,
	"problemPage": public, "getEncryptionKeys": adminOnly, "examine": adminOnly, "listConnections": adminOnly,
	"getConnection": adminOnly, "putConnection": adminOnly, "patchConnection": adminOnly, "deleteConnection": adminOnly,
	"pollConnection": adminOnly, "reconcileConnection": adminOnly, "listClients": adminOnly, "getClient": adminOnly,
	"putClient": adminOnly, "deleteClient": adminOnly, "listKeys": ownManage,
	"createKey": ownManage, "deleteKey": ownManage, "listAudit": ownManage, "getMe": ownList,
	"listUnresolved": adminOnly, "getUnresolved": adminOnly,
	"deleteUnresolved": adminOnly,
	"retryUnresolved":  adminOnly, "retryManyUnresolved": adminOnly, "listConsentLinks": adminOnly,
	"createConsentLink": adminOnly, "deleteConsentLink": adminOnly,
	"listAllConsentLinks": adminOnly, "createConsentLinks": adminOnly,
	"listCallbacks": ownList, "listEvents": ownList, "listOrders": ownList,
	"getCallback": ownRead, "listDeliveries": ownRead, "getDelivery": ownRead, "listReplays": ownRead,
	"getReplay": ownRead, "getEvent": ownRead, "getOrder": ownRead, "listOrderEvents": ownRead,
	"listAllDeliveries": ownList, "getStats": ownRead, "listEventDeliveries": ownRead,
	"getTimeline":    ownRead,
	"findAssessment": ownRead,
	"createCallback": makesOwn, "putCallback": makesAtID,
	"patchCallback": ownChange, "deleteCallback": ownChange, "rotateSecret": ownChange, "endSecret": ownChange,
	"testCallback": ownChange, "resumeCallback": ownChange, "retryDelivery": ownChange, "skipDelivery": ownChange,
	"createReplay": ownChange,
	"deleteReplay": ownChange,
}

// Every operation of the contract, as called for something of client a by everyone there is.
func TestTenancy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	receiver := "http://127.0.0.1:9/" // nobody listens there; a sample then fails, which is a result too
	a, aRead := f.client("client-a", relay.RoleWrite, "alpha"), f.key("client-a", relay.RoleRead)
	b := f.client("client-b", relay.RoleWrite, "beta")
	aManage, bManage := f.key("client-a", relay.RoleManage), f.key("client-b", relay.RoleManage)
	expired := f.key("client-a", relay.RoleWrite)
	f.expire(expired)
	f.admin().put("/v1/connections/con-a",
		map[string]any{"level": "site", "site": "alpha", "refreshToken": "refresh-token-secret"}).want(201)
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	marks := []string{"client-a", "cb-a", "alpha", orderA, "con-a"}

	for path, item := range spec().Paths.Map() {
		for method, op := range item.Operations() {
			expect, ok := expectations[op.OperationID]
			if !ok {
				t.Errorf("%s %s (%s) has no expectation: say who may call it", method, path, op.OperationID)
				continue
			}
			keyID := ""
			call := func(s session, id string) answer {
				t.Helper()
				url := strings.NewReplacer("{eventId}", ev.ID, "{orderId}", orderA, "{keyId}", keyID, "{linkId}",
					strings.Repeat("0", 32), "{unresolvedId}", "con-a-1-0", "{name}", "event-v1.json", "{fingerprint}",
					(relay.SigningSecret{Secret: secretText}).Fingerprint(),
					"{replayId}", replayID, "{type}", "not-found", "{eventType}", relay.TypeOrderUpdated,
					"{originator}", "o", "{number}", "n", "{id}", id).Replace(path)
				if op.OperationID == "findAssessment" {
					url += "?connection=con-a"
				}
				return s.do(method, url, bodyFor(op.OperationID, receiver))
			}
			// Fresh for each operation: some remove it.
			fresh := func() {
				t.Helper()
				if got := a.put("/v1/callbacks/cb-a",
					map[string]any{"url": receiver, "startFrom": "earliest"}); got.status >= 300 {
					t.Fatalf("%s", got.body)
				}
				if expect == ownManage {
					keyID = strings.Split(f.key("client-a", relay.RoleRead).token, "_")[1]
				}
				if op.OperationID == "endSecret" { // there is one that can be ended
					a.post("/v1/callbacks/cb-a/rotate-secret", map[string]any{"secret": secretText}).want(200)
					a.post("/v1/callbacks/cb-a/rotate-secret", map[string]any{"secret": otherSecretText}).want(200)
				}
			}
			fresh()
			f.replay("cb-a", relay.ReplayDone)
			id := "cb-a"
			if strings.HasPrefix(path, "/v1/connections") {
				id = "con-a"
			} else if strings.HasPrefix(path, "/v1/clients") {
				id = "client-a"
			}
			if expect == public {
				call(f.as(""), id).want(200)
				continue
			}
			for _, nobody := range []session{f.as(""), f.as("wrong"), f.as("ark_none_" + strings.Repeat("0", 43)),
				expired,
				f.as(b.token + "0"), f.as(adminToken + "x")} {
				call(nobody, id).problem("unauthorized")
			}
			if expect == ownManage {
				for _, lesser := range []session{a, aRead, b} {
					call(lesser, id).want(403).problem("role-not-allowed")
				}
				got := call(bManage, id)
				if missing := call(bManage, "nothing-here"); mask(missing.body) != mask(got.body) {
					t.Errorf("%s answers differently for another client and for none: %s, %s",
						op.OperationID, got.body, missing.body)
				}
				if strings.Contains(path, "{id}") {
					got.want(404).problem("not-found")
				} else if got.want(200); strings.Contains(string(got.body), `"client":"client-a"`) {
					t.Errorf("%s by another client tells of it: %s", op.OperationID, got.body)
				}
				if got := call(aManage, id); got.status >= 300 {
					t.Errorf("%s by its client: %d %s", op.OperationID, got.status, got.body)
				}
				fresh()
				if got := call(f.admin(), id); got.status >= 300 {
					t.Errorf("%s by the admin: %d %s", op.OperationID, got.status, got.body)
				}
				continue
			}
			// b sees nothing of a's, and a removal or a change by b or a reader leaves no trace.
			got := call(b, id)
			switch expect {
			case ownList, makesOwn:
				if got.status >= 300 {
					t.Errorf("%s by another client: %d %s", op.OperationID, got.status, got.body)
				}
			case makesAtID: // the one thing that is shown of another client's: that the id is in use
				got.want(409).problem("id-taken")
			default:
				got.want(404).problem("not-found")
			}
			for _, mark := range marks {
				if strings.Contains(string(got.body), mark) {
					t.Errorf("%s by another client tells of %s: %s", op.OperationID, mark, got.body)
				}
			}
			if (expect == ownRead || expect == ownChange) && strings.Contains(path, "{id}") {
				if missing := call(b, "nothing-here"); missing.status != got.status ||
					mask(missing.body) != mask(got.body) {
					t.Errorf("%s answers differently for what another client has and for what is not there: %s, %s",
						op.OperationID, got.body, missing.body)
				}
			}
			switch got := call(aRead, id); expect {
			case adminOnly:
				got.problem("not-found")
			case ownChange, makesOwn, makesAtID:
				got.want(403).problem("read-only-key")
			default:
				got.want(200)
			}
			if expect == makesAtID {
				call(aRead, "cb-free").problem("read-only-key")
				call(b, "cb-of-b").want(201)
			}
			switch got := call(a, id); {
			case expect == adminOnly:
				got.problem("not-found")
			case got.status >= 300:
				t.Errorf("%s by its owner: %d %s", op.OperationID, got.status, got.body)
			}
			fresh()
			f.replay("cb-a", relay.ReplayDone)
			if got := call(f.admin(), id); got.status == 401 || got.status == 403 || got.status >= 500 {
				t.Errorf("%s by the admin: %d %s", op.OperationID, got.status, got.body)
			}
			if expect == adminOnly && strings.HasPrefix(op.OperationID, "deleteC") { // put back what the admin removed
				f.admin().put("/v1/connections/con-a", map[string]any{"level": "site", "site": "alpha"})
			}
		}
	}
	for id := range expectations {
		found := false
		for _, item := range spec().Paths.Map() {
			for _, op := range item.Operations() {
				found = found || op.OperationID == id
			}
		}
		if !found {
			t.Errorf("%s has an expectation and is not in the contract", id)
		}
	}
}

func bodyFor(operation, url string) any {
	switch operation {
	case "createCallback", "putCallback":
		return map[string]any{"url": url}
	case "patchCallback":
		return map[string]any{"description": "changed"}
	case "createReplay":
		return map[string]any{"since": "2020-01-01T00:00:00Z"}
	case "putConnection":
		return map[string]any{"level": "site", "site": "alpha"}
	case "patchConnection":
		return map[string]any{"paused": false}
	case "putClient":
		return map[string]any{"sites": []string{"alpha"}}
	case "createKey":
		return map[string]any{"role": "read"}
	}
	return nil
}

const replayID = "0123456789abcdef0123456789abcdef"

// replay stores a replay of a callback in place of the one before, if there is the callback.
func (f *fixture) replay(callback string, state relay.ReplayState) {
	f.t.Helper()
	cb, _, err := f.store.Callbacks.Get(f.t.Context(), callback)
	if err != nil {
		return
	}
	doc := relay.Replay{ID: replayID, Callback: cb.ID, CallbackGeneration: cb.Generation, Client: cb.Client,
		From: 1, Through: 1, State: state}
	if err := f.store.Replays.Set(f.t.Context(), store.ReplayKey(cb.ID, doc.ID), doc); err != nil {
		f.t.Fatal(err)
	}
}

// mask takes the request id out of a problem.
func mask(body []byte) string {
	head, rest, ok := strings.Cut(string(body), `"requestId":"`)
	if !ok {
		return head
	}
	_, rest, _ = strings.Cut(rest, `"`)
	return head + rest
}

// expire makes a session's key one that ended a second ago.
func (f *fixture) expire(s session) {
	f.t.Helper()
	id := strings.Split(s.token, "_")[1]
	c, revision, err := f.store.Clients.Get(f.t.Context(), "client-a")
	if err != nil {
		f.t.Fatal(err)
	}
	ended := time.Now().Add(-time.Second)
	for i := range c.Keys {
		if c.Keys[i].ID == id {
			c.Keys[i].ExpiresAt = &ended
		}
	}
	if revision, err = f.store.Clients.Update(f.t.Context(), c.ID, c, revision); err != nil {
		f.t.Fatal(err)
	}
	f.keys.Put(c, revision)
}

// Sites that a key may not see are unknown to it, whether they exist or not; and events about
// another client's callback are not shown to a client that sees all sites.
func TestForeignSitesAndCallbacks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, all := f.client("client-a", relay.RoleWrite, "alpha"), f.client("client-all", relay.RoleWrite, "*")
	f.publish("alpha", orderA)
	f.publish("beta", orderB)
	f.order("beta", orderB)
	for _, site := range []string{"beta", "nowhere"} {
		for _, path := range []string{"/v1/events?sites=alpha,", "/v1/orders?sites=alpha,"} {
			a.get(path+site).want(400).problem("invalid-parameter", "sites")
		}
		a.get("/v1/orders/" + orderB + "?site=" + site).want(404)
		got := a.post("/v1/callbacks",
			map[string]any{"url": "https://bms.example/", "sites": []string{"alpha", site}}).want(422)
		got.problem("invalid-body", "/sites/1")
	}
	a.post("/v1/callbacks?client=client-all", map[string]any{"url": "https://bms.example/"}).problem("not-found")
	a.get("/v1/callbacks?client=client-all").problem("not-found")

	a.put("/v1/callbacks/cb-a", map[string]any{"url": "https://bms.example/"}).want(201)
	all.put("/v1/callbacks/cb-all", map[string]any{"url": "https://bms.example/"}).want(201)
	theirs := f.operational(relay.NoSite, relay.KindCallbackDisabled, "cb-a")
	own := f.operational(relay.NoSite, relay.KindCallbackDisabled, "cb-all")
	var page EventPage
	all.get("/v1/events?types=audatex.relay.*").want(200).into(&page)
	if len(page.Items) != 1 || !strings.Contains(string(page.Items[0]), own.ID) {
		t.Errorf("operational events of a client of all sites: %s", page.Items)
	}
	all.get("/v1/events/" + theirs.ID).want(404)
	all.get("/v1/events/" + own.ID).want(200)
	f.admin().get("/v1/events/" + theirs.ID).want(200)

	// A client of some sites learns what became of its own callbacks, though that stands at no
	// site; the next owner of the id does not.
	sees := func(s session, path string) string {
		t.Helper()
		s.get(path).want(200).into(&page)
		ids := make([]string, len(page.Items))
		for i, item := range page.Items {
			var ev relay.Event
			if err := json.Unmarshal(item, &ev); err != nil {
				t.Fatal(err)
			}
			ids[i] = ev.ID
		}
		return strings.Join(ids, " ")
	}
	for path, want := range map[string]string{
		"/v1/events?types=audatex.relay.*":                  theirs.ID,
		"/v1/events?types=audatex.relay.callback-disabled":  theirs.ID,
		"/v1/events?types=audatex.relay.callback-recovered": "",
		"/v1/events?types=audatex.relay.*&sites=alpha":      "",
	} {
		if got := sees(a, path); got != want {
			t.Errorf("%s: a client of one site sees %q, want %q", path, got, want)
		}
	}
	a.get("/v1/events/" + theirs.ID).want(200)
	a.delete("/v1/callbacks/cb-a").want(204)
	all.put("/v1/callbacks/cb-a", map[string]any{"url": "https://bms.example/"}).want(201)
	all.get("/v1/events/" + theirs.ID).want(404)
	if got := sees(all, "/v1/events?types=audatex.relay.*"); got != own.ID {
		t.Errorf("the next owner of the id sees %q", got)
	}

	// A client without sites sees nothing, not everything.
	none := f.client("client-none", relay.RoleWrite)
	none.get("/v1/events").want(200).into(&page)
	var orders OrderList
	none.get("/v1/orders").want(200).into(&orders)
	if len(page.Items)+len(orders.Items) != 0 {
		t.Errorf("a client without sites sees %s and %v", page.Items, orders.Items)
	}
}

// A key works at once after it was created, and no longer after it was revoked. This also holds for
// a replica that learns of it by its watch.
func TestKeysComeAndGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.get("/v1/callbacks").want(200)
	id := strings.Split(a.token, "_")[1]
	f.admin().delete("/v1/clients/client-a/keys/" + id).want(204)
	a.get("/v1/callbacks").want(401)
	f.admin().delete("/v1/clients/client-a/keys/" + id).want(404)
	second := f.key("client-a", relay.RoleRead)
	var list KeyList
	f.admin().get("/v1/clients/client-a/keys").want(200).into(&list)
	if len(list.Items) != 1 || list.Items[0].Role != KeyRoleRead {
		t.Errorf("keys: %+v", list.Items)
	}
	// Another replica removes the client: only the watch brings that here.
	if err := f.store.Clients.Delete(t.Context(), "client-a", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return second.get("/v1/callbacks").status == http.StatusUnauthorized })
	past := time.Now().Add(-time.Minute).Format(time.RFC3339)
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"alpha"}}).want(201)
	f.admin().post("/v1/clients/client-a/keys", map[string]any{"expiresAt": past}).want(422).problem("invalid-body",
		"/expiresAt")
	second.get("/v1/callbacks").want(401) // keys do not come back with the name
}

// eventually waits for a condition that something else brings about.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("it did not come about in 10 s")
		case <-tick.C:
		}
	}
}
