package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/go-openapi/jsonpointer"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// CheckOrder compares the events of one order with what the vendor did to it. There must be one
// event for each notification, in the order in which the notifications came. Each must have the
// order digit by digit as it stood at some moment not before the notification and not before the
// event before it, and what changed since that event. Between them may be events of changes that
// were found by reading the order again; these must have a change. Events are given by sequence,
// notifications in the order in which they came.
func CheckOrder(rec sandbox.OrderRecord, notifications []sandbox.NotificationRecord, events []Event) error {
	if n := len(events) - Reconciled(events); n != len(notifications) {
		return fmt.Errorf("%d events for %d notifications that a client was given", n, len(notifications))
	}
	at := 0
	for i := range events {
		e := &events[i]
		if e.isReconciled() {
			if err := checkReconciled(e); err != nil {
				return fmt.Errorf("event %d (%s): %w", i, e.ID, err)
			}
		} else {
			n := notifications[0]
			notifications = notifications[1:]
			if err := checkNotification(e, n); err != nil {
				return fmt.Errorf("event %d (%s): %w", i, e.ID, err)
			}
			for at+1 < len(rec.States) && !rec.States[at+1].At.After(n.QueuedAt) {
				at++ // the notification was of this state already
			}
		}
		found, err := StateOf(rec, at, *e)
		if err != nil {
			return err
		}
		if found < 0 {
			return fmt.Errorf("event %d (%s): its order is none of the states %d to %d that the vendor served:\n%s",
				i, e.ID, at, len(rec.States)-1, e.Order.JSON)
		}
		at = found
		var before *Event
		if i > 0 {
			before = &events[i-1]
		}
		if err := checkChanges(before, e); err != nil {
			return fmt.Errorf("event %d (%s): %w", i, e.ID, err)
		}
	}
	return nil
}

// checkReconciled checks the event of a change that no notification announced.
func checkReconciled(e *Event) error {
	switch {
	case e.Order.Notification != nil:
		return fmt.Errorf("origin %q, notification %v", e.Order.Origin, e.Order.Notification)
	case e.Type != "audatex.parts.order.updated":
		return fmt.Errorf("type %q of a change that was found by reading again", e.Type)
	case len(e.Order.Changes) == 0:
		return errors.New("it was found by reading again, and nothing has changed")
	case !e.Time.Equal(e.Order.ReadAt.Truncate(time.Microsecond)):
		return fmt.Errorf("time %s, not %s", e.Time, e.Order.ReadAt)
	}
	return nil
}

// checkNotification compares what an event contains of its notification with the ledger.
func checkNotification(e *Event, n sandbox.NotificationRecord) error {
	got := e.Order.Notification
	if got == nil || e.Order.Origin != "notification" {
		return fmt.Errorf("origin %q, notification %v", e.Order.Origin, got)
	}
	switch {
	case n.Form == sandbox.Older && got.ID != nil:
		return fmt.Errorf("the older form has no id, the event says %s", *got.ID)
	case n.Form == sandbox.Newer && (got.ID == nil || !strings.EqualFold(*got.ID, n.ID)):
		return fmt.Errorf("notification %v, the next one that was handed out is %s", got.ID, n.ID)
	case got.Topic != n.Topic:
		return fmt.Errorf("topic %q, not %q", got.Topic, n.Topic)
	case strings.TrimSuffix(got.CreatedAt, "Z") != n.QueuedAt.UTC().Format("2006-01-02T15:04:05.0000000"):
		return fmt.Errorf("created at %q, not %s", got.CreatedAt, n.QueuedAt.UTC())
	case n.Form == sandbox.Newer && got.SiteID != n.Site:
		return fmt.Errorf("site %q, not %q", got.SiteID, n.Site)
	case !e.Time.Equal(n.QueuedAt.Truncate(time.Microsecond)):
		return fmt.Errorf("time %s, not %s", e.Time, n.QueuedAt.UTC())
	case e.Order.ReadAt.Before(got.ReceivedAt):
		return fmt.Errorf("read at %s, before the notification was received at %s", e.Order.ReadAt, got.ReceivedAt)
	}
	want := "audatex.parts.order.updated"
	if n.Topic == sandbox.TopicCreated {
		want = "audatex.parts.order.created"
	}
	if e.Type != want {
		return fmt.Errorf("type %q, not %q", e.Type, want)
	}
	return nil
}

// checkChanges compares the changes that an event lists with the two orders themselves.
func checkChanges(before, e *Event) error {
	now, err := decode(e.Order.JSON)
	if err != nil {
		return err
	}
	if before == nil {
		if e.Order.PreviousStatus != nil || len(e.Order.Changes) > 0 || e.Order.Revision != 1 {
			return fmt.Errorf("first sight with previous status %v, %d changes, revision %d",
				e.Order.PreviousStatus, len(e.Order.Changes), e.Order.Revision)
		}
		return nil
	}
	was, err := decode(before.Order.JSON)
	if err != nil {
		return err
	}
	if e.Order.Revision != before.Order.Revision+1 {
		return fmt.Errorf("revision %d after %d", e.Order.Revision, before.Order.Revision)
	}
	if p := e.Order.PreviousStatus; p == nil || *p != was["Status"] {
		return fmt.Errorf("previous status %v, the event before said %v", p, was["Status"])
	}
	status := false
	for _, c := range e.Order.Changes {
		if c.Path == "/Status" {
			status = true
			if string(c.From) != quoted(was["Status"]) || string(c.To) != quoted(now["Status"]) {
				return fmt.Errorf("status from %s to %s, the orders say from %v to %v",
					c.From, c.To, was["Status"], now["Status"])
			}
		}
		if strings.HasPrefix(c.Path, "/Parts/-") {
			continue
		}
		to, err := decodeAny(c.To)
		if err != nil {
			return err
		}
		if there := lookUp(now, c.Path); quoted(there) != quoted(to) {
			return fmt.Errorf("change of %s to %s, the order says %v", c.Path, c.To, there)
		}
	}
	if status != (was["Status"] != now["Status"]) {
		return fmt.Errorf("status from %v to %v, the changes say %t", was["Status"], now["Status"], status)
	}
	if same := normal(was) == normal(now); same != (len(e.Order.Changes) == 0) {
		return fmt.Errorf("%d changes between\n%s\n%s", len(e.Order.Changes), before.Order.JSON, e.Order.JSON)
	}
	return nil
}

func decode(raw []byte) (map[string]any, error) {
	v, err := decodeAny(raw)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%.200s is no object", raw)
	}
	return m, nil
}

func decodeAny(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func quoted(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// lookUp returns what a JSON pointer names, nil if there is nothing.
func lookUp(v any, pointer string) any {
	p, err := jsonpointer.New(pointer)
	if err != nil {
		return nil
	}
	there, _, _ := p.Get(v) // an error means that there is nothing
	return there
}

// normal writes an order without what means nothing: missing dates in any spelling, and the place
// of its parts.
func normal(order map[string]any) string {
	parts, _ := order["Parts"].([]any)
	list := make([]string, 0, len(parts))
	for _, p := range parts {
		list = append(list, quoted(dated(p)))
	}
	slices.Sort(list)
	head, _ := dated(order).(map[string]any)
	delete(head, "Parts")
	return quoted(head) + strings.Join(list, "\n")
}

// dated drops members that are null or the year one, and writes numbers by their value: 12.0 is 12.
func dated(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, v := range m {
		if n, ok := v.(json.Number); ok {
			if value, ok := new(big.Rat).SetString(n.String()); ok {
				v = value.String()
			}
		}
		if v != nil && v != "0001-01-01T00:00:00" {
			out[k] = v
		}
	}
	return out
}
