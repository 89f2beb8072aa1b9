package ledger

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// life is an order at the vendor's: three states, and a notification of each, the second in the
// older form.
func life() sandbox.Ledger {
	o := sandbox.OrderRecord{ID: "o", Site: "4711"}
	for i, status := range []string{"New", "Confirmed", "Delivered"} {
		at := lifeBegan.Add(time.Duration(i) * time.Second)
		o.States = append(o.States, sandbox.OrderState{At: at, JSON: json.RawMessage(lifeOrder(status))})
		n := sandbox.NotificationRecord{ID: fmt.Sprintf("n-%d", i), Topic: sandbox.TopicUpdated, Form: sandbox.Newer,
			Site: "V01", QueuedAt: at, HandedOutAt: at}
		if i == 0 {
			n.Topic = sandbox.TopicCreated
		}
		if i == 1 {
			n.Form = sandbox.Older
		}
		o.Notifications = append(o.Notifications, n)
	}
	return sandbox.Ledger{Orders: []sandbox.OrderRecord{o}}
}

var lifeBegan = time.Date(2026, 3, 1, 10, 0, 0, 123456700, time.UTC)

func lifeOrder(status string) string { return `{ "Status": "` + status + `", "Price": 12.50 }` }

// lifeEvents are the right events of life.
func lifeEvents(t *testing.T) []Event {
	t.Helper()
	change := func(from, to string) string { return fmt.Sprintf(`{"path":"/Status","from":%q,"to":%q}`, from, to) }
	return []Event{
		parse(t, orderEvent(0, "created", lifeBegan, lifeOrder("New"), `null`, ``)),
		parse(t, strings.Replace(orderEvent(1, "updated", lifeBegan.Add(time.Second), lifeOrder("Confirmed"), `"New"`,
			change("New", "Confirmed")),
			`"notification":{"id":"N-1"`, `"notification":{"id":null`, 1)),
		parse(t, orderEvent(2, "updated", lifeBegan.Add(2*time.Second), lifeOrder("Delivered"), `"Confirmed"`,
			change("Confirmed", "Delivered"))),
	}
}

func parse(t *testing.T, body string) Event {
	t.Helper()
	e, err := ParseEvent([]byte(body))
	if err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return e
}

func TestCheckCounts(t *testing.T) {
	t.Parallel()
	right := lifeEvents(t)
	again := func(e Event, sequence, notification string) Event {
		e.ID, e.Sequence = e.ID+"-again", sequence
		if notification != "" {
			of := *e.Order.Notification
			of.ID = &notification
			e.Order.Notification = &of
		}
		return e
	}
	spoilt := right[2]
	spoilt.tokens = strings.Replace(spoilt.tokens, "12.50", "12.5", 1)
	for _, c := range []struct {
		name   string
		ledger func(*sandbox.Ledger)
		events []Event
		want   Verdict
	}{
		{name: "all well", events: right},
		{name: "one in the newer form is lost", events: right[:2], want: Verdict{Lost: 1}},
		{name: "one in the older form is lost", events: []Event{right[0], right[2]}, want: Verdict{Lost: 1}},
		{name: "all are lost", want: Verdict{Lost: 3}},
		{name: "what the vendor lost is not the relay's", events: right[:2], ledger: func(l *sandbox.Ledger) {
			l.Orders[0].Notifications[2].Lost = true
		}},
		{name: "what the vendor still has is not lost", events: right[:2], ledger: func(l *sandbox.Ledger) {
			l.Orders[0].Notifications[2].HandedOutAt = time.Time{}
		}},
		{name: "two events of one notification", events: append(right[:3:3], again(right[2], "0000000000000009", "")),
			want: Verdict{Doubled: 1}},
		{name: "an event of a notification that never was",
			events: append(right[:3:3], again(right[2], "0000000000000009", "n-9")), want: Verdict{Doubled: 1}},
		{name: "one too many in the older form", events: append(right[:3:3], again(right[1], "0000000000000009", "")),
			want: Verdict{Doubled: 1}},
		{name: "another notification's", events: []Event{right[0], right[1],
			again(right[2], "0000000000000009", "n-9")}, want: Verdict{Lost: 1, Doubled: 1}},
		{name: "out of order", events: []Event{right[0], right[2], right[1]}, want: Verdict{Misordered: 1}},
		{name: "a digit changed", events: []Event{right[0], right[1], spoilt}, want: Verdict{Altered: 1}},
		{name: "an order that nobody made", events: right, ledger: func(l *sandbox.Ledger) { l.Orders[0].ID = "other" },
			want: Verdict{Lost: 3, Altered: 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := life()
			if c.ledger != nil {
				c.ledger(&l)
			}
			got := Check(l, append([]Event{}, c.events...), NoExceptions)
			problems := got.Problems
			got.Problems = nil
			if fmt.Sprint(got) != fmt.Sprint(c.want) ||
				(len(problems) > 0) != (got.Lost+got.Doubled+got.Misordered+got.Altered > 0) {
				t.Errorf("%+v, want %+v: %s", got, c.want, problems)
			}
		})
	}
}
