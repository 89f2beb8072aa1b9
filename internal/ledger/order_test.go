package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestCheckOrderNotices shows that the comparison with the ledger finds what it is meant to find.
func TestCheckOrderNotices(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 10, 0, 0, 123456700, time.UTC)
	states := []string{
		`{"Status":"New","Price":12.50,"Parts":[{"OEPartNumber":"1","Price":1E-7}]}`,
		`{"Status":"Confirmed","Price":12.50,"Parts":[{"OEPartNumber":"1","Price":1E-7}]}`,
		`{"Status":"Confirmed","Price":12345678901234567890.10,"Parts":[{"OEPartNumber":"1","Price":1E-7}]}`,
	}
	rec := sandbox.OrderRecord{ID: "o"}
	var notifications []sandbox.NotificationRecord
	for i, s := range states {
		when := at.Add(time.Duration(i) * time.Second)
		rec.States = append(rec.States, sandbox.OrderState{At: when, JSON: []byte(s)})
		topic := sandbox.TopicUpdated
		if i == 0 {
			topic = sandbox.TopicCreated
		}
		notifications = append(notifications, sandbox.NotificationRecord{
			ID: fmt.Sprintf("n-%d", i), Topic: topic, Form: sandbox.Newer, Site: "V01", QueuedAt: when,
			HandedOutAt: when,
		})
	}
	bodies := []string{
		orderEvent(0, "created", at, states[0], `null`, ``),
		orderEvent(1, "updated", at.Add(time.Second), states[1], `"New"`,
			`{"path":"/Status","from":"New","to":"Confirmed"}`),
		orderEvent(2, "updated", at.Add(2*time.Second), states[2], `"Confirmed"`,
			`{"path":"/Price","from":12.50,"to":12345678901234567890.10}`),
	}
	check := func(bodies []string) error {
		events := make([]Event, 0, len(bodies))
		for _, b := range bodies {
			e, err := ParseEvent([]byte(b))
			if err != nil {
				t.Fatalf("%v in %s", err, b)
			}
			events = append(events, e)
		}
		return CheckOrder(rec, notifications, events)
	}
	if err := check(bodies); err != nil {
		t.Fatalf("the right events: %v", err)
	}
	found := strings.NewReplacer(`"origin":"notification"`, `"origin":"reconciliation"`, `T10:00:01.123456Z`,
		`T10:00:09.000000Z`).Replace(bodies[1])
	found = found[:strings.Index(found, `"notification":{`)] + `"notification":null}}`
	notified := notifications
	notifications = []sandbox.NotificationRecord{notified[0], notified[2]} // the second one was lost
	reconciled := []string{bodies[0], found, bodies[2]}
	if err := check(reconciled); err != nil {
		t.Fatalf("with a change that was found by reading again: %v", err)
	}
	for what, spoil := range map[string]func(b []string) []string{
		"nothing has changed": func(b []string) []string { return []string{b[0], b[1], b[1], b[2]} },
		"it is another state": replace(1, states[1], states[2]),
		"its time":            replace(1, "10:00:09.000000", "10:00:01.000000"),
	} {
		if err := check(spoil(append([]string{}, reconciled...))); err == nil {
			t.Errorf("reconciled: %s: not noticed", what)
		}
	}
	notifications = notified
	for what, spoil := range map[string]func(b []string) []string{
		"an event is missing":   func(b []string) []string { return b[:2] },
		"an event came twice":   func(b []string) []string { return []string{b[0], b[1], b[1]} },
		"events change places":  func(b []string) []string { return []string{b[0], b[2], b[1]} },
		"a digit is lost":       replace(2, "7890.10", "7890.1"),
		"a number is rounded":   replace(2, "12345678901234567890.10", "12345678901234567000"),
		"an exponent is lost":   replace(1, "1E-7", "0.0000001"),
		"the order is too old":  replace(2, states[2], states[1]),
		"the status is wrong":   replace(1, `"previousStatus":"New"`, `"previousStatus":"Confirmed"`),
		"a change is missing":   replace(2, `{"path":"/Price","from":12.50,"to":12345678901234567890.10}`, ``),
		"a change is invented":  replace(1, `"changes":[`, `"changes":[{"path":"/Price","from":1,"to":2},`),
		"the type is wrong":     replace(0, ".created", ".updated"),
		"another notification":  replace(1, "N-1", "N-2"),
		"the revision repeats":  replace(1, `"revision":2`, `"revision":1`),
		"the time is not UTC's": replace(1, "T10:00:01.123456Z", "T09:00:01.123456Z"),
		"it was read too early": replace(1, `"readAt":"2026-03-01T10:00:09Z"`, `"readAt":"2026-03-01T10:00:07Z"`),
	} {
		if err := check(spoil(append([]string{}, bodies...))); err == nil {
			t.Errorf("%s: not noticed", what)
		}
	}
}

func replace(which int, from, to string) func([]string) []string {
	return func(b []string) []string {
		spoiled := strings.ReplaceAll(b[which], from, to)
		if spoiled == b[which] {
			panic("nothing to spoil: " + from)
		}
		b[which] = spoiled
		return b
	}
}

func orderEvent(n int, typ string, at time.Time, order, previous, changes string) string {
	return fmt.Sprintf(`{"id":"site-01-o-%d","type":"audatex.parts.order.%s","subject":"o","site":"site-01",`+
		`"sequence":"%016d","time":"%s",`+
		`"data":{"order":%s,"readAt":"2026-03-01T10:00:09Z","revision":%d,"previousStatus":%s,"changes":[%s],`+
		`"origin":"notification",`+
		`"notification":{"id":"N-%d","topic":"PARTS.ORDER.%s","createdAt":"%s","siteId":"V01",`+
		`"receivedAt":"2026-03-01T10:00:08Z"}}}`,
		n, typ, n+1, at.Format("2006-01-02T15:04:05.000000Z"), order, n+1, previous, changes, n, strings.ToUpper(typ),
		at.Format("2006-01-02T15:04:05.0000000Z"))
}
