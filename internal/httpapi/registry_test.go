package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

var ordinary = map[string]any{"url": "https://bms.example/"}

// threeReplicas are three APIs over one store.
func threeReplicas(t *testing.T) []*fixture {
	t.Helper()
	first := newFixture(t)
	return []*fixture{first, first.replica(), first.replica()}
}

// stored returns what callbacks the store has, by id.
func (f *fixture) stored() map[string]store.SealedCallback {
	f.t.Helper()
	all, err := f.store.Sealed.All(f.t.Context(), "", func(key string, err error) { f.t.Error(key, err) })
	if err != nil {
		f.t.Fatal(err)
	}
	found := map[string]store.SealedCallback{}
	for _, e := range all {
		found[e.Key] = e.Value
	}
	return found
}

func callbackOf(id, client, generation string) relay.Callback {
	cb := relay.Callback{
		ID: id, Client: client, ClientGeneration: generation, Generation: relay.NewID(), StartFrom: "now",
		Concurrency: 4, TimeoutSeconds: 15, Mode: relay.ModeEvery, ContentType: "application/json",
		CreatedAt: time.Now(),
		UpdatedAt: time.Now(),
	}
	cb.SetURL("https://bms.example/")
	return cb
}

// fill gives a client callbacks until there is room for so many more.
func (f *fixture) fill(client string, room int) {
	f.t.Helper()
	c, revision, err := f.store.Clients.Get(f.t.Context(), client)
	if err != nil {
		f.t.Fatal(err)
	}
	c.Callbacks = map[string]int64{}
	var puts []store.Put[relay.Callback]
	for n := range relay.DefaultLimits.Callbacks - room {
		cb := callbackOf(fmt.Sprintf("%s-%d", client, n), client, c.Generation)
		c.Callbacks[cb.ID] = time.Now().Unix()
		puts = append(puts, store.Put[relay.Callback]{Key: cb.ID, Value: cb})
	}
	if _, err := f.store.Clients.Update(f.t.Context(), client, c, revision); err != nil {
		f.t.Fatal(err)
	}
	for _, r := range f.store.Callbacks.PutAll(f.t.Context(), puts) {
		if r.Err != nil {
			f.t.Fatal(r.Err)
		}
	}
}

// Many creations through three replicas at once, by POST and by PUT, where there is room for a few:
// exactly these succeed.
func TestAQuotaHoldsExactlyWithThreeReplicas(t *testing.T) {
	t.Parallel()
	const room, asking = 4, 15
	replicas := threeReplicas(t)
	f := replicas[0]
	key := f.client("client-a", relay.RoleWrite, "alpha")
	other := f.client("client-b", relay.RoleWrite, "alpha")
	f.fill("client-a", room)
	for _, r := range replicas {
		eventually(t, func() bool {
			return r.api.callbacks.Count("client-a") == relay.DefaultLimits.Callbacks-room &&
				r.as(key.token).get("/v1/callbacks").status == 200
		})
	}
	var made, refused, unclear atomic.Int32
	var creating sync.WaitGroup
	for n := range asking {
		creating.Go(func() {
			s := replicas[n%len(replicas)].as(key.token)
			for { // again when the machine is too busy to respond in time
				var got answer
				if n%2 == 0 {
					got = s.post("/v1/callbacks", ordinary)
				} else {
					got = s.put(fmt.Sprintf("/v1/callbacks/new-%d", n), ordinary)
				}
				switch got.status {
				case http.StatusServiceUnavailable:
					unclear.Add(1)
					continue
				case http.StatusOK: // made by the call before, which got the error that it may have been
				case http.StatusCreated:
					made.Add(1)
				case http.StatusConflict:
					got.problem("limit-reached")
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
				return
			}
		})
	}
	creating.Wait()
	if made.Load() > room || unclear.Load() == 0 && (made.Load() != room || refused.Load() != asking-room) {
		t.Errorf("%d were made and %d refused, where there was room for %d", made.Load(), refused.Load(), room)
	}
	if n := len(f.stored()); n != relay.DefaultLimits.Callbacks {
		t.Errorf("there are %d callbacks", n)
	}
	other.post("/v1/callbacks", ordinary).want(201)

	// One that is removed makes room for one, through whichever replica.
	replicas[1].as(key.token).delete("/v1/callbacks/client-a-3").want(204)
	replicas[2].as(key.token).post("/v1/callbacks", ordinary).want(201)
	replicas[0].as(key.token).post("/v1/callbacks", ordinary).want(409).problem("limit-reached")
}

// A process that dies between two writes leaves an id without a callback in its client's document.
// It takes nobody's place for good, does not keep the client from being removed, and a write that
// was still on its way fails.
func TestAnIDWithoutACallbackTakesNoPlaceForGood(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.client("client-a", relay.RoleWrite, "alpha")
	f.fill("client-a", 2)
	eventually(t, func() bool { return f.api.callbacks.Count("client-a") == relay.DefaultLimits.Callbacks-2 })
	owner, revision, err := f.store.Clients.Get(t.Context(), "client-a")
	if err != nil {
		t.Fatal(err)
	}
	owner.Callbacks["lost-long-ago"] = time.Now().Add(-time.Hour).Unix()
	owner.Callbacks["being-made"] = time.Now().Unix()
	if _, err := f.store.Clients.Update(t.Context(), "client-a", owner, revision); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		known, _ := f.api.c.Keys.Client("client-a")
		return len(known.Callbacks) == relay.DefaultLimits.Callbacks
	})
	var me Me
	key.get("/v1/me").want(200).into(&me)
	if want := relay.DefaultLimits.Callbacks - 2; me.Quotas.Callbacks.Used != want {
		t.Errorf("%d callbacks are said to be used, there are %d", me.Quotas.Callbacks.Used, want)
	}
	key.post("/v1/callbacks", ordinary).want(201)
	key.post("/v1/callbacks", ordinary).want(409).problem("limit-reached")
	late := relay.Callback{ID: "lost-long-ago", Client: "client-a", ClientGeneration: owner.Generation}
	if _, err := f.store.Callbacks.Update(t.Context(), late.ID, late, 0); !errors.Is(err, store.ErrConflict) {
		t.Errorf("what was given up is stored after all: %v", err)
	}

	gone := f.client("client-b", relay.RoleWrite, "alpha")
	owner, revision, err = f.store.Clients.Get(t.Context(), "client-b")
	if err != nil {
		t.Fatal(err)
	}
	owner.Callbacks = map[string]int64{"never-made": time.Now().Unix()}
	if _, err := f.store.Clients.Update(t.Context(), "client-b", owner, revision); err != nil {
		t.Fatal(err)
	}
	f.admin().delete("/v1/clients/client-b").want(204)
	gone.get("/v1/callbacks").want(401)
	late = relay.Callback{ID: "never-made", Client: "client-b", ClientGeneration: owner.Generation}
	if _, err := f.store.Callbacks.Update(t.Context(), late.ID, late, 0); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a callback is stored for a client that was removed: %v", err)
	}
}

// Keys that make and remove callbacks through three replicas while their client is removed and made
// again all the time: in the end no callback is there without its client, and none that a client of
// another generation has made is listed by, or shown to, the last one.
func TestARemovedClientLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	const rounds, hands, calls = 4, 6, 5
	replicas := threeReplicas(t)
	f := replicas[0]
	var refused, made atomic.Int32
	var last session
	for round := range rounds {
		operator := replicas[round%len(replicas)]
		last = operator.client("client-a", relay.RoleWrite, "alpha")
		if round == rounds-1 {
			break
		}
		var working sync.WaitGroup
		for hand := range hands {
			working.Go(func() {
				s := replicas[(round+hand)%len(replicas)].as(last.token)
				for n := range calls {
					id := fmt.Sprintf("cb-%d", rand.N(2))
					var got answer
					switch hand % 3 {
					case 0:
						got = s.post("/v1/callbacks", ordinary)
					case 1:
						got = s.put("/v1/callbacks/"+id, ordinary)
					default:
						got = s.delete("/v1/callbacks/" + id)
					}
					switch got.status {
					case http.StatusCreated:
						made.Add(1)
					case http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusConflict:
					case http.StatusServiceUnavailable: // the machine is too busy to respond in time
					case http.StatusUnauthorized:
						if n > 0 { // else the client may not be heard of yet
							return
						}
					default:
						t.Errorf("%d %s", got.status, got.body)
						return
					}
				}
			})
		}
		for { // as an operator would: what is there is removed, then the client, as long as that is refused
			var list CallbackList
			operator.admin().get("/v1/callbacks?client=client-a&limit=200").want(200).into(&list)
			for _, cb := range list.Items {
				operator.admin().delete("/v1/callbacks/" + cb.Id)
			}
			got := operator.admin().delete("/v1/clients/client-a")
			if got.status == http.StatusNoContent || got.status == http.StatusNotFound { // the latter after a 503
				break
			}
			if got.status != http.StatusServiceUnavailable {
				got.want(409).problem("client-in-use")
			}
			refused.Add(1)
		}
		working.Wait()
	}
	t.Logf("%d callbacks were made; removing the client was refused %d times", made.Load(), refused.Load())
	c, _, err := f.store.Clients.Get(t.Context(), "client-a")
	if err != nil {
		t.Fatal(err)
	}
	if all := f.stored(); len(all) != 0 {
		t.Errorf("left behind: %v", slices.Sorted(maps.Keys(all)))
	}
	if len(c.Callbacks) != 0 {
		t.Errorf("the client made again lists %v", c.Callbacks)
	}
	for _, r := range replicas {
		eventually(t, func() bool { return r.as(last.token).get("/v1/callbacks").status == http.StatusOK })
		var list CallbackList
		if r.as(last.token).get("/v1/callbacks").want(200).into(&list); len(list.Items) != 0 {
			t.Errorf("the client made again sees %+v", list.Items)
		}
	}
}

// A callback whose client is gone, or was made again, as a backup that was put back may have one:
// nobody sees it, not the admin either, it is removed, and its id is free. One that its client's
// document does not list is entered there.
func TestACallbackWithoutItsClientIsRemoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.sweepEvery = 20 * time.Millisecond })
	key := f.client("client-a", relay.RoleWrite, "alpha")
	owner, _, err := f.store.Clients.Get(t.Context(), "client-a")
	if err != nil {
		t.Fatal(err)
	}
	callback := func(id, client, generation string) {
		t.Helper()
		if _, err := f.store.Callbacks.Create(t.Context(), id, callbackOf(id, client, generation)); err != nil {
			t.Fatal(err)
		}
	}
	callback("unlisted", "client-a", owner.Generation)
	callback("of-another", "client-a", "an-older-generation")
	callback("of-nobody", "client-none", "a-generation")
	for _, s := range []session{key, f.admin()} {
		for _, id := range []string{"of-another", "of-nobody"} {
			s.get("/v1/callbacks/" + id).want(404)
			s.patch("/v1/callbacks/"+id, map[string]any{"paused": true}).want(404)
			s.post("/v1/callbacks/"+id+"/rotate-secret", map[string]any{}).want(404)
		}
		if got := s.get("/v1/callbacks").want(200); strings.Contains(string(got.body), `"of-`) {
			t.Errorf("a list shows what nobody has: %s", got.body)
		}
	}
	eventually(t, func() bool { all := f.stored(); return len(all) == 1 && all["unlisted"].ID != "" })
	eventually(t, func() bool {
		c, _, err := f.store.Clients.Get(t.Context(), "client-a")
		return err == nil && len(c.Callbacks) == 1 && c.Callbacks["unlisted"] != 0
	})
	key.put("/v1/callbacks/of-another", ordinary).want(201)
	f.admin().delete("/v1/clients/client-a").want(409).problem("client-in-use")
}

// Operational events of a client are not returned to a later client with the same id, even if its
// callback has the same id too.
func TestOperationalEventsBelongToAClientsGeneration(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.client("client-a", relay.RoleWrite, "*")
	key.put("/v1/callbacks/cb", ordinary).want(201)
	ev := f.operational(relay.NoSite, relay.KindCallbackDisabled, "cb")
	sees := func(s session) bool {
		t.Helper()
		var page EventPage
		s.get("/v1/events?types=audatex.relay.*").want(200).into(&page)
		one := s.get("/v1/events/" + ev.ID)
		if (len(page.Items) == 1) != (one.status == http.StatusOK) {
			t.Errorf("the feed shows %d, the event itself is %d", len(page.Items), one.status)
		}
		return one.status == http.StatusOK
	}
	if !sees(key) {
		t.Error("a client does not see what happened to its callback")
	}
	key.delete("/v1/callbacks/cb").want(204)
	f.admin().delete("/v1/clients/client-a").want(204)
	again := f.client("client-a", relay.RoleWrite, "*")
	again.put("/v1/callbacks/cb", ordinary).want(201)
	if sees(again) {
		t.Error("a client made again sees what happened to the one before")
	}
	key.get("/v1/events").want(401)
}

// A key of role read does not hear of other keys.
func TestAnExpiringKeyIsNotShownToReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	write := f.client("client-a", relay.RoleWrite, "alpha")
	write.put("/v1/callbacks/cb", ordinary).want(201)
	ev := f.operational(relay.NoSite, relay.KindKeyExpiring, "cb") // of the callback's client
	for _, c := range []struct {
		who    session
		listed int
		status int
	}{{write, 1, 200}, {f.key("client-a", relay.RoleManage), 1, 200},
		{f.key("client-a", relay.RoleRead), 0, 404}, {f.admin(), 1, 200}} {
		var page EventPage
		if c.who.get("/v1/events?types=" + ev.Type).want(200).into(&page); len(page.Items) != c.listed {
			t.Errorf("the feed shows %+v, want %d events", page.Items, c.listed)
		}
		c.who.get("/v1/events/" + ev.ID).want(c.status)
	}
}

// Lists and creations read nothing of other clients' callbacks, and those that were made and
// removed cost nothing afterwards: what they take of the store is counted in messages.
func TestACreationCostsTheSameWhateverOthersHave(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := f.client("client-a", relay.RoleWrite, "alpha")
	cost := func() (least uint64) { // what the watches bring comes on top
		t.Helper()
		for try := range 5 {
			before := f.conn.Stats().InMsgs
			key.post("/v1/callbacks", ordinary).want(201)
			key.get("/v1/callbacks").want(200)
			if took := f.conn.Stats().InMsgs - before; try == 0 || took < least {
				least = took
			}
		}
		return least
	}
	few := cost()
	f.client("client-b", relay.RoleWrite, "alpha")
	f.fill("client-b", 200)
	eventually(t, func() bool { return f.api.callbacks.Count("client-b") == relay.DefaultLimits.Callbacks-200 })
	many := cost()
	var removals []store.Removal
	for _, id := range f.api.callbacks.Keys("client-b") {
		removals = append(removals, store.Removal{Key: id})
	}
	f.store.Sealed.Remove(t.Context(), removals)
	eventually(t, func() bool { return f.api.callbacks.Count("client-b") == 0 })
	after := cost()
	if most := few + 4; many > most || after > most {
		t.Errorf("a creation and a list take %d messages, %d beside 800 callbacks of another client, %d after they "+
			"were removed", few, many, after)
	}
}
