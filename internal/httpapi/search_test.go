package httpapi

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// ledger is what a test has put into the log of attempts, oldest first.
type ledger struct {
	f    *fixture
	ends map[string]relay.AttemptsEnd
	all  []entry
}

type entry struct {
	callback string
	rec      relay.AttemptRecord
	batch    uint64
}

// append stores a batch of attempts to a callback.
func (l *ledger) append(callback string, at time.Time, records ...relay.AttemptRecord) {
	l.f.t.Helper()
	cb, _, err := l.f.store.Callbacks.Get(l.f.t.Context(), callback)
	if err != nil {
		l.f.t.Fatal(err)
	}
	b := l.ends[callback].Batch(callback, cb.Generation, at, records)
	result := l.f.store.Attempts.AppendAll(l.f.t.Context(), []relay.AttemptBatch{b})[0]
	if result.Err != nil {
		l.f.t.Fatal(result.Err)
	}
	l.ends[callback] = b.End(result.Seq)
	for _, rec := range records {
		l.all = append(l.all, entry{callback, rec, result.Seq})
	}
}

// What a search finds is what a filter over all attempts finds, page by page, for one callback, for
// several and for all. Stats are those of the records.
func TestSearchFindsWhatTheLogHas(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := f.client("client-a", relay.RoleWrite, "alpha", "beta"), f.client("client-b", relay.RoleWrite, "*")
	owners := map[string]session{"one": a, "two": a, "other": b}
	for id, owner := range owners {
		owner.put("/v1/callbacks/"+id, map[string]any{"url": "https://bms.example/"}).want(201)
	}
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	now := time.Date(2026, 11, 28, 10, 50, 0, 0, time.UTC)
	random := rapid.Custom(drawAttempt)
	var middle time.Time
	for i := range 120 { // several windows of what is read at once
		callback := []string{"one", "one", "two", "other"}[i%4]
		var records []relay.AttemptRecord
		for j := range 1 + i%3 {
			rec := random.Example(3*i + j)
			rec.Seq, rec.At = uint64(3*i+j+1), now
			rec.Event = fmt.Sprintf("alpha-%s-%d", rec.Order, rec.Seq)
			records = append(records, rec)
		}
		l.append(callback, now, records...)
		if now = now.Add(time.Minute); i == 60 {
			list := f.admin().deliveries("/v1/deliveries", url.Values{"limit": {"1"}})
			middle = list[0].RecordedAt
		}
	}
	recorded := map[string]time.Time{} // by callback and event
	for _, d := range f.admin().deliveries("/v1/deliveries", url.Values{"limit": {"500"}}) {
		recorded[d.Callback+d.Event] = d.RecordedAt
	}
	rapid.Check(t, func(t *rapid.T) {
		query := url.Values{"limit": {fmt.Sprint(rapid.SampledFrom([]int{1, 7, 50, 500}).Draw(t, "limit"))}}
		choose := func(name string, from ...string) []string {
			chosen := rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID).Draw(t, name)
			if len(chosen) > 0 {
				query.Set(name, strings.Join(chosen, ","))
			}
			return chosen
		}
		sites, orders := choose("sites", "alpha", "beta"), choose("orders", orderA, orderB)
		statuses, outcomes := choose("status", "delivered", "failed", "skipped"),
			choose("outcome", "success", "timeout")
		types := choose("types", relay.TypeOrderCreated, "audatex.relay.*")
		since, until := rapid.Bool().Draw(t, "since"), rapid.Bool().Draw(t, "until")
		if since {
			query.Set("since", middle.Format(time.RFC3339Nano))
		}
		if until {
			query.Set("until", middle.Format(time.RFC3339Nano))
		}
		who, seen, path := f.admin(), []string{"one", "two", "other"}, "/v1/deliveries"
		switch rapid.IntRange(0, 3).Draw(t, "who") {
		case 0:
			who, seen = a, []string{"one", "two"}
		case 1:
			who, seen, path = a, []string{"two"}, "/v1/callbacks/two/deliveries"
		case 2:
			seen = []string{"two", "other"}
			query.Set("callback", "two,other")
		}
		var want []string
		for _, e := range slices.Backward(l.all) {
			at, listed := recorded[e.callback+e.rec.Event]
			if listed && slices.Contains(seen, e.callback) && has(sites, e.rec.Site) && has(orders, e.rec.Order) &&
				has(statuses, string(e.rec.Closing)) &&
				(len(outcomes) == 0 || e.rec.Number > 0 && has(outcomes, e.rec.Outcome)) &&
				(len(types) == 0 || relay.Filter{Types: types}.Matches(relay.Traits{Type: e.rec.Type})) &&
				(!since || !at.Before(middle)) && (!until || at.Before(middle)) {
				want = append(want, e.callback+" "+e.rec.Event+" "+string(e.rec.Closing))
			}
		}
		var got []string
		for _, d := range who.deliveries(path, query) {
			got = append(got, d.Callback+" "+d.Event+" "+string(d.Status))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s?%s:\n%v, want\n%v", path, query.Encode(), got, want)
		}
	})
	for id, owner := range owners {
		compareHours(t, l, owner, id)
	}
	a.get("/v1/callbacks/other/stats").want(404)
	if other, missing := a.get("/v1/deliveries?callback=other").want(400),
		a.get("/v1/deliveries?callback=none").want(400); strings.ReplaceAll(
		mask(other.body), "other", "none") != mask(missing.body) {
		t.Errorf("another client's callback is told apart: %s, %s", other.body, missing.body)
	}
}

func has(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }

// deliveries returns all pages of a search.
func (s session) deliveries(path string, query url.Values) (all []DeliverySummary) {
	s.f.t.Helper()
	for query.Del("after"); ; {
		var list DeliveryList
		s.get(path + "?" + query.Encode()).want(200).into(&list)
		if all = append(all, list.Items...); list.Next == "" {
			return all
		}
		query.Set("after", list.Next)
	}
}

func drawAttempt(t *rapid.T) relay.AttemptRecord {
	r := relay.AttemptRecord{
		Order: rapid.SampledFrom([]string{orderA, orderB}).Draw(t, "order"),
		Site:  rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "site"),
		Type: rapid.SampledFrom([]string{
			relay.TypeOrderCreated, relay.TypeOrderUpdated, relay.OperationalPrefix + "reconciled",
		}).Draw(t, "type"),
		Closing: rapid.SampledFrom([]relay.DeliveryStatus{
			relay.DeliveryDelivered, relay.DeliveryFailed, relay.DeliverySkipped,
		}).Draw(t, "closing"),
	}
	if r.Closing != relay.DeliverySkipped {
		r.Number, r.DurationMillis = 1, float64(rapid.IntRange(1, 100_000).Draw(t, "micros"))/1000
		if r.Outcome = "success"; r.Closing == relay.DeliveryFailed {
			r.Outcome = "timeout"
		}
	}
	return r
}

func compareHours(t *testing.T, l *ledger, s session, callback string) {
	t.Helper()
	var got []Hour
	for after := ""; ; {
		var list HourList
		s.get("/v1/callbacks/" + callback + "/stats?limit=1" + after).want(200).into(&list)
		if got = append(got, list.Items...); list.Next == "" {
			break
		}
		after = "&after=" + list.Next
	}
	type hour struct {
		ends, outcomes map[string]int
		millis         []float64
	}
	want := map[time.Time]*hour{}
	for _, e := range l.all {
		if e.callback != callback {
			continue
		}
		h := want[e.rec.At.Truncate(time.Hour)]
		if h == nil {
			h = &hour{map[string]int{}, map[string]int{}, nil}
			want[e.rec.At.Truncate(time.Hour)] = h
		}
		h.ends[string(e.rec.Closing)]++
		if e.rec.Number > 0 {
			h.outcomes[e.rec.Outcome]++
			h.millis = append(h.millis, e.rec.DurationMillis)
		}
	}
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b Hour) int { return b.Hour.Compare(a.Hour) }) {
		t.Errorf("hours of %s: %+v, want %d", callback, got, len(want))
	}
	for _, h := range got {
		w := want[h.Hour]
		if w == nil || h.Attempts != len(w.millis) || h.Delivered != w.ends["delivered"] ||
			h.Failed != w.ends["failed"] ||
			h.Skipped != w.ends["skipped"] || h.Outcomes["success"] != w.outcomes["success"] ||
			h.Outcomes["timeout"] != w.outcomes["timeout"] {
			t.Errorf("hour %s of %s: %+v, want %+v", h.Hour, callback, h, w)
			continue
		}
		slices.Sort(w.millis)
		if p := w.millis[(len(w.millis)-1)/2]; math.Abs(h.P50Millis-p) > 0.07*p {
			t.Errorf("hour %s of %s: p50 %v, want %v", h.Hour, callback, h.P50Millis, p)
		}
	}
}

// The deliveries of one event, and all that happened to an order, to callbacks that the caller may
// see only.
func TestTimeline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := f.client("client-a", relay.RoleWrite, "alpha"), f.client("client-b", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	a.put("/v1/callbacks/idle", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	b.put("/v1/callbacks/other", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	f.order("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	var events []relay.Event
	for i := range 2 {
		ev := f.publish("alpha", orderA)
		events = append(events, ev)
		seq, now := uint64(i+1), time.Now().UTC()
		rec := relay.AttemptRecord{Event: ev.ID, Seq: seq, Order: orderA, Site: "alpha", Type: ev.Type, Number: 1,
			At: now, Outcome: "refused", Status: 500}
		done := rec
		done.Number, done.Outcome, done.Status, done.Closing = 2, "success", 200, relay.DeliveryDelivered
		l.append("mine", now, rec)
		l.append("other", now, done)
		l.append("mine", now, done)
	}
	var of EventDeliveries
	a.get("/v1/events/" + events[0].ID + "/deliveries").want(200).into(&of)
	if len(of.Items) != 2 || of.Next != "" || of.Items[0].Callback != "idle" ||
		of.Items[0].Status != DeliveryStatusPending ||
		of.Items[1].Callback != "mine" || of.Items[1].Status != DeliveryStatusDelivered ||
		len(of.Items[1].Attempts) != 2 {
		t.Errorf("of the first event: %+v", of)
	}
	for who, want := range map[session][]string{a: {"idle", "mine"}, b: {"other"},
		f.admin(): {"idle", "mine", "other"}} {
		var line Timeline
		who.get("/v1/orders/" + orderA + "/timeline").want(200).into(&line)
		if len(line.Items) != 2 || line.Next != "" {
			t.Fatalf("timeline: %+v", line)
		}
		for i, item := range line.Items {
			var callbacks []string
			for _, d := range item.Deliveries {
				callbacks = append(callbacks, d.Callback)
			}
			if item.Event != events[i].ID || item.Sequence != events[i].Sequence || !slices.Equal(callbacks, want) {
				t.Errorf("item %d: %+v, want deliveries to %v", i, item, want)
			}
		}
	}
	f.client("client-c", relay.RoleRead, "beta").get("/v1/orders/" + orderA + "/timeline").want(404)
}

// What was delivered of a site that the client has lost since is not listed, as the event itself is
// not shown. There is no status for what was not attempted.
func TestDeliveriesOfALostSiteAreNotListed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha", "beta")
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	for i, site := range []string{"alpha", "beta", relay.NoSite, ""} {
		l.append("mine", time.Now().UTC(), relay.AttemptRecord{
			Event: "e" + site, Seq: uint64(i + 1), Order: orderA, Site: site, Number: 1, Outcome: "success",
			Closing: relay.DeliveryDelivered,
		})
	}
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"alpha"}}).want(200)
	for who, want := range map[session]string{a: "[e e_ ealpha]", f.admin(): "[e e_ ebeta ealpha]"} {
		for _, path := range []string{"/v1/deliveries", "/v1/callbacks/mine/deliveries"} {
			var events []string
			for _, d := range who.deliveries(path, url.Values{}) {
				events = append(events, d.Event)
			}
			if fmt.Sprint(events) != want {
				t.Errorf("%s: %v, want %s", path, events, want)
			}
			who.get(path + "?status=pending").want(400)
		}
	}
}

// Orders are found by the reference that a shop knows, by status, and by when they changed.
func TestOrdersAreFound(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	put := func(site, id, reference, status string, at time.Time, listed ...string) {
		o := relay.OrderState{Site: site, ID: id, Reference: reference, Status: status, UpdatedAt: at,
			ReadAt: at, Sequence: 1, Revision: 1}
		for _, reference := range append(listed, reference) {
			if err := f.store.References.Set(t.Context(), relay.ReferenceKey(reference, site, id),
				relay.Referenced{ListedAt: at}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.store.Orders.Create(t.Context(), site+"."+id, o); err != nil {
			t.Fatal(err)
		}
	}
	const third = "cccccccc-6a64-4a2c-9d55-0a3f3a9f7b11"
	put("alpha", orderA, "PO-1003", "New", now.Add(-time.Hour))
	put("alpha", orderB, "PO 2 / é", "Confirmed", now, "PO-1003") // it had another reference before
	put("beta", third, "PO-1003", "New", now)
	if err := f.store.References.Set(t.Context(),
		relay.ReferenceKey("PO-1003", "alpha", strings.Replace(third, "c", "d", 8)),
		relay.Referenced{}); err != nil { // a crash came before its first event
		t.Fatal(err)
	}
	a := f.client("client-a", relay.RoleRead, "alpha")
	for query, want := range map[string][]string{
		"reference=po-1003%20":                                           {orderA},
		"reference=PO%20%202%20/%20%C3%89":                               {orderB},
		"reference=PO-10":                                                nil,
		"reference=PO-1003&statuses=Confirmed":                           nil,
		"statuses=confirmed,Dispatched":                                  {orderB},
		"updatedSince=" + now.Format(time.RFC3339Nano):                   {orderB},
		"updatedSince=" + now.Add(time.Hour).Format(time.RFC3339):        nil,
		"reference=PO-1003&updatedSince=" + now.Format(time.RFC3339Nano): nil,
		"sites=alpha&limit=1":                                            {orderA, orderB},
	} {
		if got := a.orders(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if got := f.admin().orders("reference=PO-1003&limit=1"); !slices.Equal(got, []string{orderA, third}) {
		t.Errorf("all of the reference: %v", got)
	}
	a.get("/v1/orders?reference=PO-1003&sites=beta").want(400)
}

func (s session) orders(query string) (ids []string) {
	s.f.t.Helper()
	for after := ""; ; {
		var list OrderList
		s.get("/v1/orders?" + query + after).want(200).into(&list)
		for _, o := range list.Items {
			ids = append(ids, o.Id)
		}
		if list.Next == "" {
			return ids
		}
		after = "&after=" + list.Next
	}
}

// A search takes one place of its key, not a second one within: searches that run at the same time
// would wait for one another.
func TestASearchTakesOnePlaceOfItsKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	client, _ := f.keys.Client("client-a")
	for range readsOfKey - 1 {
		done, err := f.api.reads.soon(t.Context(), client.Keys[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
	}
	for _, path := range []string{
		"/v1/deliveries", "/v1/callbacks/mine/deliveries", "/v1/callbacks/mine/deliveries/" + ev.ID,
		"/v1/events/" + ev.ID + "/deliveries", "/v1/orders/" + orderA + "/timeline",
	} {
		a.get(path).want(200)
	}
}

// An attempt is shown once, also where the search for a later event's attempts goes on close to its
// own.
func TestATimelineShowsEachAttemptOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	f.order("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	for i := range 3 {
		ev, now := f.publish("alpha", orderA), time.Now().UTC()
		l.append("mine", now, relay.AttemptRecord{
			Event: ev.ID, Seq: uint64(i + 1), Order: orderA, Site: "alpha", Type: ev.Type, Number: 1, At: now,
			Outcome: "success", Status: 200, Closing: relay.DeliveryDelivered,
		})
		for range firstBatches { // so that the first reading does not see the next event's
			l.append("mine", now,
				relay.AttemptRecord{Order: orderB, Seq: 1_000, Number: 1, At: now, Outcome: "refused"})
		}
	}
	var line Timeline
	a.get("/v1/orders/" + orderA + "/timeline").want(200).into(&line)
	for i, item := range line.Items {
		if len(item.Deliveries) != 1 || len(item.Deliveries[0].Attempts) != 1 {
			t.Errorf("item %d of %d: %+v", i, len(line.Items), item.Deliveries)
		}
	}
	// On a page behind its end a delivery still stands as it did on the page before.
	of := "/v1/callbacks/mine/deliveries/" + line.Items[0].Event
	var d Delivery
	a.get(of + "?after=" +
		position('g', 2, 0, uint64(slices.Index(statuses, DeliveryStatusDelivered)))).want(200).into(&d)
	if d.Status != DeliveryStatusDelivered || len(d.Attempts) != 0 || d.Next != "" {
		t.Errorf("a page behind the end: %+v", d)
	}
	a.get(of+"?after="+position('g', 2, 0, 6)).want(400).problem("invalid-parameter", "after")
}

// In mode latest the newest of an order's events is tried, while the lane begins with the oldest. It is listed, once
// for its order, also after an attempt that did not count.
func TestWhatModeLatestTriesIsListed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	settings := map[string]any{"url": "https://bms.example/", "startFrom": "earliest", "mode": "latest"}
	a.put("/v1/callbacks/mine", settings).want(201)
	cb, _, err := f.store.Callbacks.Get(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	lane := cursor.Lane{V: 1, Order: orderA, Generation: cb.Generation, Entries: []uint64{1, 2, 3, 4}, Attempts: 2}
	if err := f.store.Lanes.Set(t.Context(), store.LaneKey(store.CallbackCursor("mine"), orderA), lane); err != nil {
		t.Fatal(err)
	}
	f.order("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	for i := range 3 {
		rec := recordOf(f.publish("alpha", orderA), uint64(i+1), "refused", "")
		rec.Number = i + 1
		l.append("mine", time.Now().UTC(), rec)
		found := a.deliveries("/v1/callbacks/mine/deliveries", url.Values{"status": {"retrying"}})
		counts := rec.Number >= lane.Attempts
		if counts != (len(found) == 1) || len(found) > 1 || counts && found[0].Event != rec.Event {
			t.Errorf("after attempt %d: %+v", rec.Number, found)
		}
	}
}
