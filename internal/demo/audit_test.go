package demo

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// life is an order at the vendor's: three states, and a notification of each, the second in the older form.
func life() sandbox.Ledger {
	at := time.Now()
	o := sandbox.OrderRecord{ID: "order-1", Site: "4711"}
	for i, status := range []string{"New", "Confirmed", "Delivered"} {
		o.States = append(o.States, sandbox.OrderState{Status: status, JSON: orderAs(status)})
		form := sandbox.Newer
		if i == 1 {
			form = sandbox.Older
		}
		o.Notifications = append(o.Notifications, sandbox.NotificationRecord{ID: fmt.Sprintf("note-%d", i), Form: form, HandedOutAt: at})
	}
	return sandbox.Ledger{Orders: []sandbox.OrderRecord{o}}
}

func orderAs(status string) json.RawMessage {
	return json.RawMessage(`{ "Status": "` + status + `", "Price": 12.50 }`)
}

// told is the event of one notification of that order; note "" is the older form.
func told(sequence uint64, note, order string) event {
	e := event{ID: fmt.Sprint("event-", sequence), Subject: "order-1", Time: time.Now(), sequence: sequence}
	e.Data.Order = json.RawMessage(order)
	e.Data.Notification = &struct{ ID *string }{}
	if note != "" {
		e.Data.Notification.ID = &note
	}
	return e
}

func TestAuditJudges(t *testing.T) {
	t.Parallel()
	const created, confirmed, delivered = `{"Status":"New","Price":12.50}`, `{"Status":"Confirmed","Price":12.50}`, `{"Status":"Delivered","Price":12.50}`
	first, second, third := told(1, "NOTE-0", created), told(2, "", confirmed), told(3, "note-2", delivered)
	for _, c := range []struct {
		name    string
		ledger  func(*sandbox.Ledger)
		arrived []event
		want    verdict
		broken  bool
	}{
		{name: "all well", arrived: []event{first, second, third}},
		{name: "a repeat is no fault", arrived: []event{first, second, first, third}, want: verdict{repeats: 1}},
		{name: "a state may be seen early and twice, as a read is shared", arrived: []event{told(1, "note-0", delivered), told(2, "", delivered), third}},
		{name: "one in the newer form is lost", arrived: []event{first, second}, want: verdict{lost: 1}, broken: true},
		{name: "one in the older form is lost", arrived: []event{first, third}, want: verdict{lost: 1}, broken: true},
		{name: "all are lost", want: verdict{lost: 3}, broken: true},
		{name: "what the vendor lost is not ours", arrived: []event{first, second}, ledger: func(l *sandbox.Ledger) {
			l.Orders[0].Notifications[2].Lost = true
		}},
		{name: "what still is at the vendor's has not arrived", arrived: []event{first, second}, ledger: func(l *sandbox.Ledger) {
			l.Orders[0].Notifications[2].HandedOutAt = time.Time{}
		}, want: verdict{lost: 1}, broken: true},
		{name: "two events of one notification", arrived: []event{first, second, third, told(4, "note-2", delivered)}, want: verdict{doubled: 1}, broken: true},
		{name: "an event of a notification that never was", arrived: []event{first, second, third, told(4, "note-9", delivered)}, want: verdict{doubled: 1}, broken: true},
		{name: "one too many in the older form", arrived: []event{first, second, third, told(4, "", delivered)}, want: verdict{doubled: 1}, broken: true},
		{name: "out of order", arrived: []event{first, told(3, "", delivered), told(2, "note-2", delivered)}, want: verdict{misordered: 1}, broken: true},
		{name: "a digit changed", arrived: []event{first, second, told(3, "note-2", `{"Status":"Delivered","Price":12.5}`)}, want: verdict{altered: 1}, broken: true},
		{name: "an older state after a newer one", arrived: []event{first, told(2, "", delivered), told(3, "note-2", confirmed)}, want: verdict{altered: 1}, broken: true},
		{name: "an order that nobody made", arrived: []event{first, second, third}, ledger: func(l *sandbox.Ledger) {
			l.Orders[0].ID = "order-2"
		}, want: verdict{lost: 3, altered: 3}, broken: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := life()
			if c.ledger != nil {
				c.ledger(&l)
			}
			a := newAudit()
			for _, e := range c.arrived {
				a.arrived(e, time.Now())
			}
			got := a.judge(l)
			if broken := got.broken(); broken != c.broken {
				t.Errorf("broken is %t, want %t", broken, c.broken)
			}
			c.want.deliveries, c.want.events = len(c.arrived), len(c.arrived)-c.want.repeats
			got.toCallback, got.sinceEvent = spread{}, spread{}
			if got != c.want {
				t.Errorf("judged\n%+v, want\n%+v", got, c.want)
			}
		})
	}
}

func TestAnUnverifiedDeliveryIsAFault(t *testing.T) {
	t.Parallel()
	a := newAudit()
	a.refused()
	if v := a.judge(sandbox.Ledger{}); v.unverified != 1 || !v.broken() {
		t.Errorf("judged %+v", v)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var d []time.Duration
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i))
	}
	if s := newSpread(d); s != (spread{50, 99}) {
		t.Errorf("spread of 1 to 100: %+v", s)
	}
	if s := newSpread([]time.Duration{7}); s != (spread{7, 7}) {
		t.Errorf("spread of one: %+v", s)
	}
}
