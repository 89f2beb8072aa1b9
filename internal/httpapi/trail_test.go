package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// recordOf returns the record of an attempt to deliver an event of orderA.
func recordOf(ev relay.Event, seq uint64, outcome string, closing relay.DeliveryStatus) relay.AttemptRecord {
	return relay.AttemptRecord{
		Event: ev.ID, Seq: seq, Order: orderA, Site: "alpha", Type: ev.Type, Number: 1, At: time.Now().UTC(),
		Outcome: outcome, Closing: closing,
	}
}

// others stores batches about another order.
func (l *ledger) others(callback string, n int) {
	for range n {
		l.append(callback, time.Now().UTC(),
			relay.AttemptRecord{Order: orderB, Seq: 1_000, Number: 1, Outcome: "refused"})
	}
}

// What a replay has delivered is delivered wherever one looks, however much was delivered before and
// after it, and a delivery that has ended has no further page.
func TestReplayedDeliveriesAreFoundEverywhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	for _, id := range []string{"mine", "idle"} {
		a.put("/v1/callbacks/"+id, map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	}
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	l.append("idle", time.Now().UTC(), recordOf(ev, 1, "success", relay.DeliveryDelivered))
	l.append("mine", time.Now().UTC(), recordOf(ev, 1, "refused", relay.DeliveryFailed))
	l.others("mine", 5*firstBatches)
	again := recordOf(ev, 1, "timeout", "")
	again.Replay = "r1"
	l.append("mine", time.Now().UTC(), again)
	l.others("mine", 3)
	other := recordOf(ev, 2, "success", relay.DeliveryDelivered) // of another event
	other.Replay = "r1"
	l.append("mine", time.Now().UTC(), other)
	again.Outcome, again.Closing, again.Replayed = "success", relay.DeliveryDelivered, relay.DeliveryDelivered
	l.append("mine", time.Now().UTC(), again)
	l.others("mine", 1_001)

	check := func(where string, status DeliveryStatus, attempts []Attempt, next string) {
		t.Helper()
		if status != DeliveryStatusDelivered || next != "" || len(attempts) != 3 || attempts[0].Replay != "" ||
			attempts[1].Outcome != "timeout" || attempts[2].Outcome != "success" || attempts[2].Replay != "r1" {
			t.Errorf("%s: %s, next %q, %+v", where, status, next, attempts)
		}
	}
	var of EventDeliveries
	a.get("/v1/events/" + ev.ID + "/deliveries").want(200).into(&of)
	if len(of.Items) != 2 {
		t.Fatalf("of the event: %+v", of)
	}
	check("of the event", of.Items[1].Status, of.Items[1].Attempts, of.Next)
	var line Timeline
	a.get("/v1/orders/" + orderA + "/timeline").want(200).into(&line)
	if len(line.Items) != 1 || len(line.Items[0].Deliveries) != 2 {
		t.Fatalf("timeline: %+v", line)
	}
	check("timeline", line.Items[0].Deliveries[1].Status, line.Items[0].Deliveries[1].Attempts, line.Next)
	var d Delivery
	a.get("/v1/callbacks/mine/deliveries/" + ev.ID).want(200).into(&d)
	check("the delivery", d.Status, d.Attempts, d.Next)

	// From a page on that has seen all but the first attempt of the replay:
	last := l.ends["mine"].Replayed
	d = Delivery{}
	a.get("/v1/callbacks/mine/deliveries/" + ev.ID + "?after=" + position('g', 3, last-1, 3)).want(200).into(&d)
	if d.Status != DeliveryStatusFailed || d.Next != "" || len(d.Attempts) != 1 || d.Attempts[0].Outcome != "timeout" {
		t.Errorf("below what has delivered: %+v", d)
	}
}

// Looking for attempts of replays costs one read for many callbacks, however much each has had delivered since. It
// counts against the key's rate for each of them.
func TestManyCallbacksWithoutReplaysAreLookedAtTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	const callbacks = 12
	for i := range callbacks {
		id := fmt.Sprintf("cb-%02d", i)
		a.put("/v1/callbacks/"+id, map[string]any{"url": "https://bms.example/"}).want(201)
		l.others(id, 2)
	}
	rec := recordOf(ev, 1, "success", relay.DeliveryDelivered)
	rec.Replay, rec.Replayed = "r1", relay.DeliveryDelivered
	l.append("cb-07", time.Now().UTC(), rec)
	l.others("cb-07", 1)

	reads, err := f.conn.SubscribeSync("$JS.API.DIRECT.GET." + f.store.Topology().Attempts())
	if err != nil {
		t.Fatal(err)
	}
	var of EventDeliveries
	a.get("/v1/events/" + ev.ID + "/deliveries").want(200).into(&of)
	if len(of.Items) != 1 || of.Next != "" || of.Items[0].Callback != "cb-07" ||
		of.Items[0].Status != DeliveryStatusDelivered {
		t.Errorf("of the event: %+v", of)
	}
	if err := f.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := reads.Pending(); err != nil || n == 0 || n > 3 {
		t.Errorf("%d reads of the log of attempts for %d callbacks: %v", n, callbacks, err)
	}
	client, _, err := f.store.Clients.Get(t.Context(), "client-a")
	if err != nil {
		t.Fatal(err)
	}
	trail := f.api.trailOf(caller{client: client},
		[]store.Stored{{Seq: 1, Site: "alpha", Order: orderA, Time: time.Now()}}, nil)
	if whole, err := trail.search(t.Context(), trailPosition{}); err != nil || !whole ||
		trail.vain != callbacks || trail.batches != 1 {
		t.Errorf("%d were looked at in vain, and %d batches read: whole %t, %v", trail.vain, trail.batches, whole, err)
	}
}

// An event from before a callback was made is unknown there, however much was delivered since,
// unless a replay has delivered it.
func TestAnEventFromBeforeTheCallback(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/"}).want(201)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	l.others("mine", 1_001)
	of := "/v1/callbacks/mine/deliveries/" + ev.ID
	a.get(of).want(404)
	rec := recordOf(ev, 1, "success", relay.DeliveryDelivered)
	rec.Replay, rec.Replayed = "r1", relay.DeliveryDelivered
	l.append("mine", time.Now().UTC(), rec)
	l.others("mine", 1)
	var d Delivery
	if a.get(of).want(200).into(&d); d.Status != DeliveryStatusDelivered || len(d.Attempts) != 1 || d.Next != "" {
		t.Errorf("replayed: %+v", d)
	}
}

// What was delivered before a filter or the client's sites were changed is still shown.
func TestDeliveriesFromBeforeTheFilterWasChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha", "beta")
	for _, id := range []string{"mine", "other"} {
		a.put("/v1/callbacks/"+id, map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	}
	a.patch("/v1/callbacks/other", map[string]any{"sites": []string{"beta"}}).want(200)
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	l.append("mine", time.Now().UTC(), recordOf(ev, 1, "success", relay.DeliveryDelivered))

	delivered := func(s session, when string, want int) {
		t.Helper()
		var of EventDeliveries
		s.get("/v1/events/" + ev.ID + "/deliveries").want(200).into(&of)
		if len(of.Items) != want || of.Next != "" ||
			want > 0 && (of.Items[0].Callback != "mine" || of.Items[0].Status != DeliveryStatusDelivered) {
			t.Errorf("%s: %+v", when, of)
		}
	}
	delivered(a, "as it was", 1)
	a.patch("/v1/callbacks/mine", map[string]any{"sites": []string{"beta"}}).want(200)
	delivered(a, "with another filter", 1)
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"beta"}}).want(200)
	delivered(f.admin(), "of a client with other sites", 1)
	a.get("/v1/events/" + ev.ID + "/deliveries").want(404)
}

// An event that a callback has passed while its filter refused it never comes. It is shown as passed, and does not look
// as if it still waited. What may still come is pending, and what was delivered is delivered.
func TestAnEventThatTheFilterRefusedAtItsTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha", "beta")
	a.put("/v1/callbacks/mine",
		map[string]any{"url": "https://bms.example/", "startFrom": "earliest", "sites": []string{"beta"}}).want(201)
	a.put("/v1/callbacks/steady", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	f.order("alpha", orderA)
	ev := f.publish("alpha", orderA)
	generation := func(id string) string {
		cb, _, err := f.store.Callbacks.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return cb.Generation
	}
	document := func(id string, d cursor.Document) {
		t.Helper()
		if d.V = 1; d.Generation == "" {
			d.Generation = generation(id)
		}
		if err := f.store.Cursors.Set(t.Context(), store.CallbackCursor(id), d); err != nil {
			t.Fatal(err)
		}
	}
	stands := func(when, id string, want DeliveryStatus) {
		t.Helper()
		var of EventDeliveries
		a.get("/v1/events/" + ev.ID + "/deliveries").want(200).into(&of)
		var line Timeline
		a.get("/v1/orders/" + orderA + "/timeline").want(200).into(&line)
		var d Delivery
		a.get("/v1/callbacks/" + id + "/deliveries/" + ev.ID).want(200).into(&d)
		for _, item := range append(of.Items, line.Items[0].Deliveries...) {
			if item.Callback == id && (item.Status != want || (item.Reason != "") != (want == DeliveryStatusSkipped)) {
				t.Errorf("%s: %s in a list, %q", when, item.Status, item.Reason)
			}
		}
		if d.Status != want || (d.Reason != "") != (want == DeliveryStatusSkipped) || len(of.Items) == 0 {
			t.Errorf("%s: %s, %q", when, d.Status, d.Reason)
		}
	}
	behind, other := cursor.Carried{Behind: true}, cursor.Carried{Generation: "other"}
	a.patch("/v1/callbacks/mine", map[string]any{"sites": []string{"alpha", "beta"}}).want(200)
	stands("before anything is stored", "mine", DeliveryStatusPending)
	document("mine", cursor.Document{Position: 1, Carried: other})
	stands("of a callback that had the id before", "mine", DeliveryStatusPending)
	document("mine", cursor.Document{})
	stands("not reached", "mine", DeliveryStatusPending)
	if err := f.store.Watermarks.Set(t.Context(), store.WatermarkKey(relay.ShardOf("mine"), "events"),
		store.Watermark{Position: 1}); err != nil {
		t.Fatal(err)
	}
	stands("passed by all that are quiet", "mine", DeliveryStatusSkipped)
	document("mine", cursor.Document{Carried: behind})
	stands("not quiet", "mine", DeliveryStatusPending)
	document("mine", cursor.Document{Carried: behind, Done: []cursor.Range{{1, 3}}})
	stands("in a range that is done", "mine", DeliveryStatusSkipped)
	document("mine", cursor.Document{Carried: behind, Position: 1})
	stands("passed", "mine", DeliveryStatusSkipped)
	key := store.LaneKey(store.CallbackCursor("mine"), orderA)
	for _, lane := range []cursor.Lane{{Entries: []uint64{1}}, {OpenFrom: 1}} {
		lane.V, lane.Order, lane.Generation = 1, orderA, generation("mine")
		if err := f.store.Lanes.Set(t.Context(), key, lane); err != nil {
			t.Fatal(err)
		}
		stands("waiting in its order's lane", "mine", DeliveryStatusPending)
	}
	document("mine", cursor.Document{Carried: behind, Position: 1, Skipped: []cursor.Entry{{Seq: 1, Order: orderA}}})
	stands("skipped in its order's lane", "mine", DeliveryStatusSkipped)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	l.append("mine", time.Now().UTC(), recordOf(ev, 1, "success", relay.DeliveryDelivered))
	stands("delivered", "mine", DeliveryStatusDelivered)

	document("steady", cursor.Document{Position: 1}) // its filter has always been what it is: the attempt is still to be stored
	stands("never refused", "steady", DeliveryStatusPending)
}

// What is skipped while an attempt is under way stays skipped, whatever comes of the attempt: also a 410, which
// disables the callback, and with which other deliveries wait for it to be resumed.
func TestADeliverySkippedWhileItIsAttempted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/mine", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	disabled := relay.Disabled{Reason: "gone", At: time.Now().UTC()}
	if _, _, err := change(t.Context(), f.store.Callbacks, "mine", "", func(cb relay.Callback) (relay.Callback, error) {
		cb.Disabled = &disabled
		return cb, nil
	}); err != nil {
		t.Fatal(err)
	}
	f.order("alpha", orderA)
	l := &ledger{f: f, ends: map[string]relay.AttemptsEnd{}}
	for i, outcome := range []string{"refused", "success", "gone"} {
		ev := f.publish("alpha", orderA)
		skipped, attempt := recordOf(ev, uint64(i+1), "", relay.DeliverySkipped), recordOf(ev, uint64(i+1), outcome, "")
		skipped.Number, skipped.Reason, attempt.Late = 0, "skipped by an operator", true
		if outcome == "gone" {
			attempt.Status = http.StatusGone
		}
		l.append("mine", time.Now().UTC(), skipped, attempt)
		var d Delivery
		a.get("/v1/callbacks/mine/deliveries/" + ev.ID).want(200).into(&d)
		var of EventDeliveries
		a.get("/v1/events/" + ev.ID + "/deliveries").want(200).into(&of)
		if d.Reason != skipped.Reason || len(d.Attempts) != 1 || d.Attempts[0].Outcome != outcome {
			t.Errorf("%s: %+v", outcome, d)
		}
		listed := a.deliveries("/v1/deliveries", url.Values{})[0].Status
		for _, status := range []DeliveryStatus{d.Status, of.Items[0].Status, listed} {
			if status != DeliveryStatusSkipped {
				t.Errorf("%s: %s", outcome, status)
			}
		}
	}
}
