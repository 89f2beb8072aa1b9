package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// making is an operation that makes something, and how to see how much it has made.
type making struct {
	path string
	body map[string]any
	made func(f *fixture) int
}

// makings are all operations that take an Idempotency-Key, of the client acme with a callback cb.
func makings() map[string]making {
	return map[string]making{
		"createCallback": {"/v1/callbacks?client=acme",
			map[string]any{"url": "https://bms.example/hook", "types": []string{"audatex.parts.*"}},
			func(f *fixture) int {
				var list CallbackList
				f.admin().get("/v1/callbacks?client=acme").want(200).into(&list)
				return len(list.Items) - 1
			}},
		"createKey": {"/v1/clients/acme/keys", map[string]any{"role": "read", "description": "for the test"},
			func(f *fixture) int {
				var list KeyList
				f.admin().get("/v1/clients/acme/keys").want(200).into(&list)
				return len(list.Items)
			}},
		"createConsentLink":  {"/v1/connections/con-1/consent-links", map[string]any{"force": true}, linksOf("con-1")},
		"createConsentLinks": {"/v1/consent-links", map[string]any{"connections": []string{"con-2"}}, linksOf("con-2")},
		"createReplay": {"/v1/callbacks/cb/replays",
			map[string]any{"since": "2020-01-01T00:00:00Z"}, replaysOf(false)},
		"retryDelivery": {"/v1/callbacks/cb/deliveries/" + fixedEvent + "/retry",
			map[string]any{}, replaysOf(true)},
		"rotateSecret": {"/v1/callbacks/cb/rotate-secret", map[string]any{}, func(f *fixture) int {
			cb, _, err := f.store.Callbacks.Get(f.t.Context(), "cb")
			if err != nil {
				f.t.Fatal(err)
			}
			return len(cb.Secrets.Signing) - 1 // two at most: the others are seen by the responses
		}},
	}
}

// fixedEvent is the id of an event that acme publishes.
const fixedEvent = "alpha-" + orderA + "-1768469924687150"

// replaysOf counts the replays that name an event, or those that do not.
func replaysOf(event bool) func(f *fixture) int {
	return func(f *fixture) (n int) {
		var list ReplayList
		f.admin().get("/v1/callbacks/cb/replays").want(200).into(&list)
		for _, r := range list.Items {
			if event == (len(r.Events) > 0) {
				n++
			}
		}
		return n
	}
}

func linksOf(connection string) func(f *fixture) int {
	return func(f *fixture) int {
		var list ConsentLinkList
		f.admin().get("/v1/connections/" + connection + "/consent-links").want(200).into(&list)
		return len(list.Items)
	}
}

func (f *fixture) acme() {
	f.t.Helper()
	for _, id := range []string{"con-1", "con-2"} {
		f.admin().put("/v1/connections/"+id, map[string]any{"level": "site", "site": "alpha"}).want(201)
	}
	f.admin().put("/v1/clients/acme", map[string]any{"allSites": true}).want(201)
	f.admin().put("/v1/callbacks/cb?client=acme", map[string]any{"url": "https://bms.example/"}).want(201)
	ev, err := relay.NewOrderEvent(publicURL, "alpha", orderA, relay.TypeOrderCreated, 1768469924687150, time.Now(),
		relay.OrderData{Order: json.RawMessage(`{}`)})
	if err == nil {
		_, err = f.store.Events.Publish(f.t.Context(), ev, store.InboxRef{}, 0)
	}
	if err != nil || ev.ID != fixedEvent {
		f.t.Fatal(ev.ID, err)
	}
}

// Every POST of the contract that makes something takes the header; the others make nothing that is
// there afterwards.
func TestEveryPostThatMakesSomethingTakesAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	c, err := embedded()
	if err != nil {
		t.Fatal(err)
	}
	makesNothing := []string{"testCallback", "resumeCallback", "pollConnection", "reconcileConnection",
		"retryUnresolved",
		"skipDelivery",
		"retryManyUnresolved"}
	tried := makings()
	for route, op := range c.operations {
		if !strings.HasPrefix(route, "POST /v1/") {
			continue
		}
		if _, ok := tried[op.id]; ok != op.once {
			t.Errorf("%s takes an Idempotency-Key: %v, and is tried: %v", op.id, op.once, ok)
		}
		if op.once == strings.Contains(" "+strings.Join(makesNothing, " ")+" ", " "+op.id+" ") {
			t.Errorf("%s takes an Idempotency-Key: %v", op.id, op.once)
		}
	}
}

// Equal requests at once on three replicas make one thing, and all get its response in the end: to
// the byte, secrets included.
func TestEqualRequestsOnThreeReplicasMakeOneThing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	replicas := []*fixture{f, f.replica(), f.replica()}
	f.acme()
	for name, m := range makings() {
		t.Run(name, func(t *testing.T) {
			before := m.made(f.in(t))
			answers := make([]answer, 12)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() {
					answers[i] = replicas[i%3].admin().post(m.path, m.body, "Idempotency-Key", "one of "+name)
				})
			}
			all.Wait()
			var first answer
			fresh := 0
			for i, got := range answers {
				if got.status == 409 {
					got.problem("idempotency-key-in-use")
					if got.header.Get("Retry-After") == "" {
						t.Error("no Retry-After")
					}
					got = replicas[(i+1)%3].admin().post(m.path, m.body, "Idempotency-Key", "one of "+name)
				}
				if got.header.Get("Idempotent-Replayed") == "" {
					fresh++
				}
				if first.body == nil {
					first = got
				}
				if got.status >= 300 || got.status != first.status || string(got.body) != string(first.body) ||
					got.header.Get("Location") != first.header.Get("Location") ||
					got.header.Get("ETag") != first.header.Get("ETag") {
					t.Errorf("%d %s\nand %d %s", first.status, first.body, got.status, got.body)
				}
			}
			if made := m.made(f.in(t)) - before; made != 1 || fresh != 1 {
				t.Errorf("%d were made and %d answers are not replayed, want 1", made, fresh)
			}
			if second := f.in(t).admin().post(m.path, m.body, "Idempotency-Key",
				`"another of `+name+`"`); string(second.body) == string(first.body) {
				t.Errorf("another key got the same answer: %s", second.body)
			}
			again := f.in(t).admin().post(m.path, m.body, "Idempotency-Key", `"one of `+name+`"`) // the same in quotes
			if string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("got %s, want %s", again.body, first.body)
			}
			// Nothing of what was answered lies in the clear.
			for _, secret := range []string{`"secret":"`, `"key":"ark_`, `/consent/`} {
				if _, rest, found := strings.Cut(string(first.body), secret); found {
					f.in(t).notStored(rest[:20])
				}
			}
		})
	}
}

// notStored looks for a secret in everything that is stored of requests.
func (f *fixture) notStored(secret string) {
	f.t.Helper()
	kv, err := f.js.KeyValue(f.t.Context(), "relay_requests")
	if err != nil {
		f.t.Fatal(err)
	}
	keys, err := kv.Keys(f.t.Context())
	if err != nil || len(keys) == 0 {
		f.t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		e, err := kv.Get(f.t.Context(), key)
		if err != nil {
			f.t.Fatal(err)
		}
		if strings.Contains(string(e.Value()), secret) || strings.Contains(key, "one of") {
			f.t.Errorf("a secret is in %s", e.Value())
		}
	}
}

// A key stands for one request of one caller.
func TestAnIdempotencyKeyStandsForOneRequestOfOneCaller(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := f.client("client-a", relay.RoleWrite, "*"), f.client("client-b", relay.RoleWrite, "*")
	second := f.key("client-a", relay.RoleWrite)
	hook := map[string]any{"url": "https://bms.example/", "description": "one"}
	var first, other Callback
	a.post("/v1/callbacks", hook, "Idempotency-Key", "k").want(201).into(&first)
	b.post("/v1/callbacks", hook, "Idempotency-Key", "k").want(201).into(&other)
	if first.Id == other.Id || other.Client != "client-b" {
		t.Errorf("client-b got %+v", other)
	}
	f.admin().post("/v1/callbacks?client=client-a", hook, "Idempotency-Key", "k").want(201).into(&other)
	if first.Id == other.Id {
		t.Error("the administrator got the client's")
	}
	second.post("/v1/callbacks", hook, "Idempotency-Key", "k").want(201).into(&other) // the client's other key
	if first.Id != other.Id || first.Secret != other.Secret || first.Secret == "" {
		t.Errorf("got %+v, want %+v", other, first)
	}
	// The order of members and white space make no other request; their values do, and so do
	// path and query.
	a.post("/v1/callbacks", `{ "description":"one", "url":"https://bms.example/" }`, "Idempotency-Key", "k").want(201)
	a.post("/v1/callbacks", map[string]any{"url": "https://bms.example/"}, "Idempotency-Key",
		"k").want(422).problem("idempotency-key-reused")
	a.post("/v1/callbacks?client=client-a", hook, "Idempotency-Key", "k").want(422).problem("idempotency-key-reused")
	a.post("/v1/callbacks/"+first.Id+"/rotate-secret", nil, "Idempotency-Key",
		"k").want(422).problem("idempotency-key-reused")
	f.admin().post("/v1/clients/client-a/keys", nil, "Idempotency-Key", "k").want(422).problem("idempotency-key-reused")
	// A body that is not valid, a key that may only read: as without the header.
	a.post("/v1/callbacks", map[string]any{"url": 7}, "Idempotency-Key", "k").want(422).problem("invalid-body", "/url")
	f.key("client-a", relay.RoleRead).post("/v1/callbacks", hook, "Idempotency-Key",
		"k").want(403).problem("read-only-key")
	for _, wrong := range []string{"", strings.Repeat("x", 256), "schlüssel", "a\tb"} {
		a.post("/v1/callbacks", hook, "Idempotency-Key",
			wrong).want(400).problem("invalid-parameter", "Idempotency-Key")
	}
	a.post("/v1/callbacks", hook, "Idempotency-Key", strings.Repeat("x", 255)).want(201)
	// A client that is made again under its id has not made what the first one made.
	for _, cb := range f.api.callbacks.Keys("client-a") {
		f.admin().delete("/v1/callbacks/" + cb).want(204)
	}
	f.admin().delete("/v1/clients/client-a").want(204)
	a = f.client("client-a", relay.RoleWrite, "*")
	a.post("/v1/callbacks", hook, "Idempotency-Key", "k").want(201).into(&other)
	if first.Id == other.Id {
		t.Error("the new client got the old one's callback")
	}
}

// What was refused may be mended and sent again with the same key.
func TestAProblemLetsItsIdempotencyKeyGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.admin().post("/v1/clients/acme/keys", nil, "Idempotency-Key", "k").want(404)
	f.admin().post("/v1/clients/acme/keys", map[string]any{"role": "read"}, "Idempotency-Key", "k").want(404)
	f.acme()
	f.admin().post("/v1/clients/acme/keys", nil, "Idempotency-Key", "k").want(201)
}

// Without a clear response of the store, and after a replica that died with it, a request is run
// again and finds what it made.
func TestAnInterruptedRequestMakesNothingTwice(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.acme()
	stored := func(bucket string, lost error) *func(store.Write) error {
		var once sync.Once
		after := func(w store.Write) (err error) {
			if strings.HasPrefix(w.Subject, "$KV.relay_"+bucket+".") {
				once.Do(func() { err = lost })
			}
			return err
		}
		return &after
	}
	for name, bucket := range map[string]string{"createCallback": "callbacks", "createKey": "clients",
		"rotateSecret": "callbacks"} {
		t.Run(name, func(t *testing.T) {
			f, m := f.in(t), makings()[name]
			before := m.made(f)
			f.hooks.after.Store(stored(bucket, store.ErrUnclear))
			got := f.admin().post(m.path, m.body, "Idempotency-Key", "unclear "+name).want(503)
			got.problem("store-unavailable")
			f.hooks.after.Store(nil)
			first := f.admin().post(m.path, m.body, "Idempotency-Key", "unclear "+name)
			if made := m.made(f) - before; first.status >= 300 || made != 1 {
				t.Fatalf("%d %s, and %d were made", first.status, first.body, made)
			}
			// As a replica leaves it that dies before it has stored the response: with the time still
			// running, then over.
			unanswered := f.unanswered(name, m)
			f.admin().post(m.path, m.body, "Idempotency-Key", "dies "+name).want(409).problem("idempotency-key-in-use")
			f.endRunning()
			again := f.admin().post(m.path, m.body, "Idempotency-Key", "dies "+name)
			if again.status != first.status || again.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("%d %s", again.status, again.body)
			}
			replay := f.admin().post(m.path, m.body, "Idempotency-Key", "dies "+name)
			if string(replay.body) != string(again.body) || replay.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("got %s, want %s", replay.body, again.body)
			}
			for _, secret := range []string{`"secret":"`, `"key":"ark_`, `/consent/`} {
				_, of, found := strings.Cut(string(unanswered.body), secret)
				if found && !strings.Contains(string(again.body), secret+of[:20]) {
					t.Errorf("run again it made another secret: %s, before %s", again.body, unanswered.body)
				}
			}
		})
	}
}

// unanswered makes a request whose response cannot be stored.
func (f *fixture) unanswered(name string, m making) answer {
	f.t.Helper()
	writes := 0
	before := func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "$KV.relay_requests.") {
			if writes++; writes > 1 {
				return store.ErrUnavailable
			}
		}
		return nil
	}
	f.hooks.before.Store(&before)
	defer f.hooks.before.Store(nil)
	got := f.admin().post(m.path, m.body, "Idempotency-Key", "dies "+name)
	if got.status >= 300 {
		f.t.Fatalf("%d %s", got.status, got.body)
	}
	return got
}

// endRunning lets the time of all requests that run be over.
func (f *fixture) endRunning() {
	f.t.Helper()
	all, err := f.store.RequestSizes.All(f.t.Context(), "", func(string, error) {})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range all {
		r, revision, err := f.store.Requests.GetAtLeader(f.t.Context(), e.Key)
		if err != nil {
			f.t.Fatal(err)
		}
		if r.Answer == nil {
			r.RunningUntil = time.Now().Add(-time.Second)
			if _, err := f.store.Requests.Update(f.t.Context(), e.Key, r, revision); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// What is remembered of one caller has bounds, which do not touch what is remembered already, nor
// others.
func TestRequestsRememberedOfACallerAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.remembered.ofClient = room{3, 1 << 20}
	a, b := f.client("client-a", relay.RoleWrite, "*"), f.client("client-b", relay.RoleWrite, "*")
	hook := map[string]any{"url": "https://bms.example/"}
	for i := range 3 {
		a.post("/v1/callbacks", hook, "Idempotency-Key", fmt.Sprint(i)).want(201)
	}
	client, _ := f.keys.Client("client-a")
	eventually(t, func() bool { return f.api.remembered.full(caller{client: client}) })
	refused := a.post("/v1/callbacks", hook, "Idempotency-Key", "3").want(429)
	if refused.problem("too-many-requests"); refused.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	a.post("/v1/callbacks", hook, "Idempotency-Key", "2").want(201)
	a.post("/v1/callbacks", hook).want(201)
	b.post("/v1/callbacks", hook, "Idempotency-Key", "3").want(201)
	// By bytes as well.
	f.api.remembered.mu.Lock()
	f.api.remembered.ofClient = room{100, 100}
	f.api.remembered.mu.Unlock()
	a.post("/v1/callbacks", hook, "Idempotency-Key", "3").want(429)
}

// A stored request goes by itself.
func TestARequestIsRememberedForADay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.acme()
	f.admin().post("/v1/clients/acme/keys", nil, "Idempotency-Key", "k").want(201)
	stream, err := f.js.Stream(context.Background(), "KV_relay_requests")
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), "$KV.relay_requests.>")
	if err != nil || m.Header.Get("Nats-TTL") != "24h0m0s" {
		t.Errorf("headers %v, %v", m.Header, err)
	}
}
