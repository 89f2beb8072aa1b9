package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The types of the events about parts orders, and values of other CloudEvents attributes.
const (
	TypeOrderCreated = "audatex.parts.order.created"
	TypeOrderUpdated = "audatex.parts.order.updated"

	// The paths of the data's schemas, which are served below the relay's public address.
	OrderSchema       = "/schemas/parts-order-event-v1.json"
	OperationalSchema = "/schemas/operational-event-v1.json"

	// EventContentType is CloudEvents' structured JSON mode (CloudEvents 1.0, HTTP binding, section
	// 3.2).
	EventContentType = "application/cloudevents+json"
)

// Origin is what caused an event.
type Origin string

// The origins of an event about an order.
const (
	OriginNotification   Origin = "notification"
	OriginReconciliation Origin = "reconciliation"
)

// Event is what the relay publishes: a CloudEvent 1.0 in structured JSON. The publisher encodes it
// once; the NATS message, the callback's body and the API's response all have the same bytes.
type Event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	Time            string          `json:"time"` // RFC 3339, UTC
	DataContentType string          `json:"datacontenttype"`
	DataSchema      string          `json:"dataschema"`
	Site            string          `json:"site"`
	Sequence        string          `json:"sequence"`
	Test            bool            `json:"test,omitempty"` // sent by a test of a callback: nothing has happened
	Data            json.RawMessage `json:"data"`

	// CreatedAt and ReceivedAt are the times of the vendor's notification behind the event, zero
	// for other events. They are in the message's headers, so that latencies can be measured
	// without reading the body.
	CreatedAt, ReceivedAt time.Time `json:"-"`
	// Held is how much of the time since ReceivedAt the vendor could not be asked about the order, or refused it.
	Held time.Duration `json:"-"`
	// Status and Changed are what filters look at (Traits), of an event about an order. They are in
	// the headers as well.
	Status  string `json:"-"`
	Changed bool   `json:"-"`
}

// OrderData is the data of an event about a parts order.
type OrderData struct {
	Order          json.RawMessage   `json:"order"`
	ReadAt         time.Time         `json:"readAt"`
	Revision       int               `json:"revision"`
	PreviousStatus *string           `json:"previousStatus"`
	Changes        []Change          `json:"changes"`
	Notification   *NotificationInfo `json:"notification"`
	Origin         Origin            `json:"origin"`
}

// NotificationInfo is what an event contains about the vendor's notification that caused it.
type NotificationInfo struct {
	ID         *string   `json:"id"` // null for the older form
	Topic      string    `json:"topic"`
	CreatedAt  string    `json:"createdAt"` // as it came
	SiteID     string    `json:"siteId"`
	ReceivedAt time.Time `json:"receivedAt"`
}

// Operational is the data of an operational event.
type Operational struct {
	Kind    Kind           `json:"kind"`
	Message string         `json:"message"` // one sentence: what happened, and what to do
	Details map[string]any `json:"details,omitempty"`
}

// NextSequence returns the sequence of an event published at now, after one with the sequence last.
// Sequences are microseconds and always rise.
func NextSequence(now time.Time, last uint64) uint64 {
	return max(uint64(now.UnixMicro()), last+1)
}

// NewOrderEvent returns the event for one notification (or reconciliation) of an order. schemaBase
// is the relay's public address without a trailing slash.
func NewOrderEvent(schemaBase, site, order, typ string, sequence uint64, at time.Time, data OrderData) (Event, error) {
	if data.Changes == nil {
		data.Changes = []Change{}
	}
	raw, err := Encode(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode data of order %s: %w", order, err)
	}
	seq := strconv.FormatUint(sequence, 10)
	return Event{
		SpecVersion: "1.0", ID: site + "-" + order + "-" + seq, Source: "/audatex/sites/" + site, Type: typ,
		Subject: order, Time: FormatTime(at), DataContentType: "application/json", DataSchema: schemaBase + OrderSchema,
		Site: site, Sequence: seq, Data: raw,
	}, nil
}

// NewOperationalEvent returns an operational event about id (a connection, a callback, an order).
// Site is NoSite if the event is not about a single site.
func NewOperationalEvent(schemaBase, site, id string, at time.Time, data Operational) (Event, error) {
	raw, err := Encode(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode operational event %s of %s: %w", data.Kind, id, err)
	}
	source := "/audatex/relay"
	if site != NoSite {
		source = "/audatex/sites/" + site
	}
	seq := strconv.FormatInt(at.UnixMicro(), 10)
	return Event{
		SpecVersion: "1.0", ID: site + "-" + string(data.Kind) + "-" + id + "-" + seq, Source: source,
		Type: OperationalPrefix + string(data.Kind), Subject: id, Time: FormatTime(at),
		DataContentType: "application/json", DataSchema: schemaBase + OperationalSchema, Site: site, Sequence: seq,
		Data: raw,
	}, nil
}

// Numbered returns the event with another sequence, and the id that goes with it.
func (e Event) Numbered(sequence uint64) Event {
	e.ID = strings.TrimSuffix(e.ID, e.Sequence)
	e.Sequence = strconv.FormatUint(sequence, 10)
	e.ID += e.Sequence
	return e
}

// FormatTime writes t in UTC with microseconds, RFC 3339.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// Encode returns v as JSON, without escaping HTML characters and without a newline at the end. The
// vendor's bytes inside stay as they came, except for white space.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// SequenceNumber returns the event's sequence as a number.
func (e Event) SequenceNumber() (uint64, error) { return strconv.ParseUint(e.Sequence, 10, 64) }
