// Package ledger compares the events that a receiver got with the ledger of the vendor's double: the two ends of the
// way, and nothing between. It notices a notification without an event, an event too many, one out of order, and an
// order of which a digit differs, and it reads events as a receiver does, by the published contract and without the
// relay's own types. Begin reading at Check; CheckOrder has the rules for one order.
package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// Event is an event as a receiver reads it: written against the published contract, not with the
// relay's own types.
type Event struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Subject  string          `json:"subject"`
	Site     string          `json:"site"`
	Sequence string          `json:"sequence"`
	Time     time.Time       `json:"time"`
	Data     json.RawMessage `json:"data"`

	Order OrderData `json:"-"` // zero in events of the relay itself

	tokens string // of Order.JSON
}

// OrderData is what an event contains of its order.
type OrderData struct {
	JSON           json.RawMessage `json:"order"`
	ReadAt         time.Time       `json:"readAt"`
	Revision       int             `json:"revision"`
	PreviousStatus *string         `json:"previousStatus"`
	Changes        []Change        `json:"changes"`
	Notification   *struct {
		ID         *string   `json:"id"`
		Topic      string    `json:"topic"`
		CreatedAt  string    `json:"createdAt"`
		SiteID     string    `json:"siteId"`
		ReceivedAt time.Time `json:"receivedAt"`
	} `json:"notification"`
	Origin string `json:"origin"`
}

// Change is one difference from the event before.
type Change struct {
	Path string          `json:"path"`
	Part *Part           `json:"part"`
	From json.RawMessage `json:"from"`
	To   json.RawMessage `json:"to"`
}

// Part names the part of an order that a change is of.
type Part struct {
	OEPartNumber      string `json:"oePartNumber"`
	OrderedPartNumber string `json:"orderedPartNumber"`
}

// ParseEvent reads an event.
func ParseEvent(body []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return e, err
	}
	if e.Operational() {
		return e, nil
	}
	if err := json.Unmarshal(e.Data, &e.Order); err != nil {
		return e, err
	}
	var err error
	e.tokens, err = tokens(e.Order.JSON)
	return e, err
}

// Operational reports whether it is an event of the relay itself.
func (e *Event) Operational() bool { return strings.HasPrefix(e.Type, "audatex.relay.") }

// CreatedAt returns when the vendor made the event's notification, as the vendor wrote it.
func (e Event) CreatedAt() string {
	if e.Order.Notification == nil {
		return ""
	}
	return e.Order.Notification.CreatedAt
}

// NotificationID returns the vendor's id of the event's notification, "" for the older form.
func (e Event) NotificationID() string {
	if e.Order.Notification == nil || e.Order.Notification.ID == nil {
		return ""
	}
	return strings.ToLower(*e.Order.Notification.ID)
}

// StateOf returns which of an order's states, from the given one on, an event has; -1 if it has
// none of them.
func StateOf(rec sandbox.OrderRecord, from int, e Event) (int, error) {
	for i := from; i < len(rec.States); i++ {
		state, err := tokens(rec.States[i].JSON)
		if err != nil {
			return 0, fmt.Errorf("state %d in the ledger: %w", i, err)
		}
		if state == e.tokens {
			return i, nil
		}
	}
	return -1, nil
}

// tokens writes JSON as the sequence of its tokens, every number with the digits it has: only white
// space and the spelling of strings are lost.
func tokens(raw []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch v := t.(type) {
		case json.Number:
			b.WriteString(v.String())
		case json.Delim:
			b.WriteRune(rune(v))
		case string:
			b.WriteString(strconv.Quote(v))
		default: // true, false, null
			fmt.Fprint(&b, v)
		}
		b.WriteByte('\n')
	}
}

func (e *Event) isReconciled() bool { return e.Order.Origin == "reconciliation" }

// Reconciled returns how many of the events are of changes that no notification announced.
func Reconciled(events []Event) (n int) {
	for i := range events {
		if events[i].isReconciled() {
			n++
		}
	}
	return n
}
