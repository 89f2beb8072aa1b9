package store

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// Headers of an event's message.
const (
	HeaderContentType = "Content-Type"
	// HeaderInbox names the inbox entry an event came from: connection/sequence/index. With it a
	// replica finds out after a crash what is published already.
	HeaderInbox = "Relay-Inbox"
	// HeaderCreatedAt and HeaderReceivedAt are the times of the vendor's notification behind an
	// event, RFC 3339.
	HeaderCreatedAt  = "Relay-Created-At"
	HeaderReceivedAt = "Relay-Received-At"
	// HeaderHeld is for how many seconds the notification behind an event was held because the vendor could not be
	// asked about the order, or refused it. It is not there if that was less than a second.
	HeaderHeld = "Relay-Held"
	// HeaderStatus is the order's status, escaped as a segment of a path is. It is not there if the
	// order has none, or one that is longer than any filter may name.
	HeaderStatus = "Relay-Status"
	// HeaderChanged is there, and 1, where something has changed since the order's event before, or
	// there was none.
	HeaderChanged = "Relay-Changed"
)

// Events is the public log.
type Events struct {
	s   *Store
	how manner // in which scans read
}

// Gently returns the log with scans that hold up others as little as possible: they read a few events at a time.
func (e *Events) Gently() *Events { return &Events{e.s, gently} }

// Stored is an event as it is in the log: the bytes are what every reader gets.
type Stored struct {
	Seq    uint64
	Site   string
	Type   string
	Order  string // of an operational event: what it is about
	Inbox  InboxRef
	Time   time.Time // when the log took it
	Body   []byte
	Action string // "created" or "updated"; empty for an operational event
	// CreatedAt and ReceivedAt are those of the notification behind the event; zero without one.
	CreatedAt, ReceivedAt time.Time
	Held                  time.Duration // of the time since it was received: waiting for the vendor
	// Status and Changed are those of relay.Traits.
	Status  string
	Changed bool
}

// Traits returns what filters look at.
func (s *Stored) Traits() relay.Traits {
	return relay.Traits{Site: s.Site, Type: s.Type, Order: s.Order, Status: s.Status, Changed: s.Changed}
}

// InboxRef names one notification of one inbox page; the zero value is none.
type InboxRef struct {
	Connection string
	Seq        uint64
	Index      int
}

// String writes the reference as the header has it.
func (r InboxRef) String() string { return fmt.Sprintf("%s/%d/%d", r.Connection, r.Seq, r.Index) }

// ParseInboxRef reads what String wrote.
func ParseInboxRef(s string) (InboxRef, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return InboxRef{}, fmt.Errorf("%q is not connection/sequence/index", s)
	}
	seq, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return InboxRef{}, fmt.Errorf("%q: %w", s, err)
	}
	index, err := strconv.Atoi(parts[2])
	if err != nil {
		return InboxRef{}, fmt.Errorf("%q: %w", s, err)
	}
	return InboxRef{parts[0], seq, index}, nil
}

// Publish stores an event of an order if the last event of the order is at position expected (0:
// there is none in the log), and returns its position. ErrConflict: another event of the order was
// stored meanwhile; ErrUnclear: read back; ErrTooLarge, ErrUnfit: it never will be stored.
func (e *Events) Publish(ctx context.Context, ev relay.Event, ref InboxRef, expected uint64) (uint64, error) {
	body, err := relay.Encode(ev)
	if err != nil { // nested too deep, which no second try changes
		return 0, fmt.Errorf("%w: encode event %s: %w", ErrUnfit, ev.ID, err)
	}
	action := "updated"
	if ev.Type == relay.TypeOrderCreated {
		action = "created"
	}
	m := e.message(topology.OrderSubject(ev.Site, action, ev.Subject), body)
	if ref.Connection != "" {
		m.Header.Set(HeaderInbox, ref.String())
	}
	if !ev.ReceivedAt.IsZero() {
		m.Header.Set(HeaderCreatedAt, relay.FormatTime(ev.CreatedAt))
		m.Header.Set(HeaderReceivedAt, relay.FormatTime(ev.ReceivedAt))
		if ev.Held >= time.Second {
			m.Header.Set(HeaderHeld, strconv.FormatInt(int64(ev.Held/time.Second), 10))
		}
	}
	if n := len(ev.Status); n > 0 && n <= relay.MaxStatus {
		m.Header.Set(HeaderStatus, url.PathEscape(ev.Status))
	}
	if ev.Changed {
		m.Header.Set(HeaderChanged, "1")
	}
	condition := jetstream.WithExpectLastSequenceForSubject(expected, topology.OrderFilter(ev.Site, ev.Subject))
	return e.s.write(ctx, request{msg: m, opts: []jetstream.PublishOpt{condition}})
}

// PublishOperational stores an operational event.
func (e *Events) PublishOperational(ctx context.Context, ev relay.Event) (uint64, error) {
	return e.operational(ctx, ev)
}

// PublishOperationalAfter stores an operational event if the last one of its site, kind and id is
// at expected (0: there is none in the log); ErrConflict if another was stored meanwhile.
func (e *Events) PublishOperationalAfter(ctx context.Context, ev relay.Event, expected uint64) (uint64, error) {
	return e.operational(ctx, ev, jetstream.WithExpectLastSequencePerSubject(expected))
}

func (e *Events) operational(ctx context.Context, ev relay.Event, condition ...jetstream.PublishOpt) (uint64, error) {
	body, err := relay.Encode(ev)
	if err != nil {
		return 0, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	subject := topology.OperationalSubject(ev.Site, strings.TrimPrefix(ev.Type, relay.OperationalPrefix), ev.Subject)
	return e.s.write(ctx, request{msg: e.message(subject, body), opts: condition})
}

func (e *Events) message(stored string, body []byte) *nats.Msg {
	m := nats.NewMsg(e.s.topo.PublishSubject(stored))
	m.Header.Set(HeaderContentType, relay.EventContentType)
	m.Data = body
	return m
}

// Get returns the event at a position; ErrNotFound if it has aged out or never was.
func (e *Events) Get(ctx context.Context, seq uint64) (Stored, error) {
	m, err := e.s.get(ctx, e.s.topo.Events(), seq)
	if err != nil {
		return Stored{}, err
	}
	return AsEvent(m), nil
}

// LastOf returns the last event of an order; ErrNotFound if the log has none.
func (e *Events) LastOf(ctx context.Context, site, order string) (Stored, error) {
	m, err := e.s.last(ctx, e.s.topo.Events(), topology.OrderFilter(site, order))
	if err != nil {
		return Stored{}, err
	}
	return AsEvent(m), nil
}

// Scan returns up to max events of the subject filters (none: all) from a position on, and whether
// more are there.
func (e *Events) Scan(ctx context.Context, from uint64, filters []string, max int) ([]Stored, bool, error) {
	return e.scan(ctx, e.how, from, time.Time{}, filters, max)
}

// unfiltered returns filters, or none for one that selects all: without a filter the server need not count what
// matches.
func unfiltered(filters []string) []string {
	if len(filters) == 1 && filters[0] == topology.AllEvents {
		return nil
	}
	return filters
}

// ScanSince is Scan from a time on.
func (e *Events) ScanSince(ctx context.Context, since time.Time, filters []string, max int) ([]Stored, bool, error) {
	return e.scan(ctx, e.how, 0, since, filters, max)
}

// ScanHeads is Scan without the events' bodies.
func (e *Events) ScanHeads(ctx context.Context, from uint64, filters []string, max int) ([]Stored, bool, error) {
	return e.scan(ctx, e.how|headersOnly, from, time.Time{}, filters, max)
}

// ScanWithin is Scan that keeps the bodies of the first events only, as many as have so many bytes, and one in any
// case. The others come without: what is asked for may turn out to be far larger than was expected.
func (e *Events) ScanWithin(
	ctx context.Context, from uint64, filters []string, max, bytes int,
) ([]Stored, bool, error) {
	var events []Stored
	var all uint64
	kept := 0
	filters = unfiltered(filters)
	more, err := e.s.scanEach(ctx, e.s.topo.Events(), e.how, from, time.Time{}, filters,
		max, &all, func(m Message) {
			ev := AsEvent(m)
			if kept += len(ev.Body); kept > bytes && len(events) > 0 {
				ev.Body = nil
			}
			events = append(events, ev)
		})
	if err != nil {
		return nil, false, err
	}
	return events, more, nil
}

// At returns the position of the first event that the log took at or after a time; the position
// behind its end if there is none.
func (e *Events) At(ctx context.Context, at time.Time) (uint64, error) {
	return e.s.positionAt(ctx, e.s.topo.Events(), at)
}

func (e *Events) scan(
	ctx context.Context, how manner, from uint64, since time.Time, filters []string, max int,
) ([]Stored, bool, error) {
	var all uint64
	messages, more, err := e.s.scanCounted(ctx, e.s.topo.Events(), how, from, since, unfiltered(filters), max, &all)
	if err != nil {
		return nil, false, err
	}
	return each.Of(messages, AsEvent), more, nil
}

// Waiting returns how many events the filters select from a sequence on, and when the log took the
// first of them.
func (e *Events) Waiting(ctx context.Context, from uint64, filters []string) (n uint64, oldest time.Time, err error) {
	first, _, err := e.s.scanCounted(ctx, e.s.topo.Events(), e.how, from, time.Time{}, filters, 1, &n)
	if err != nil || len(first) == 0 {
		return 0, time.Time{}, err
	}
	return n, first[0].Time, nil
}

// Bounds returns the first and last position of the log; first = last+1 when it is empty.
func (e *Events) Bounds(ctx context.Context) (first, last uint64, err error) {
	return e.s.bounds(ctx, e.s.topo.Events())
}

// BeforeEnd returns the position after which the newest events of the log begin: at most so many, and about so many
// bytes.
func (e *Events) BeforeEnd(ctx context.Context, events, bytes uint64) (after uint64, err error) {
	state, err := e.s.state(ctx, e.s.topo.Events())
	if err != nil || state.Msgs == 0 {
		return state.LastSeq, err
	}
	events = min(events, bytes/max(state.Bytes/state.Msgs, 1))
	return max(state.LastSeq, state.FirstSeq-1+events) - events, nil
}

// Tail follows the whole log from a position on. AsEvent reads its messages.
func (e *Events) Tail(ctx context.Context, from uint64) (*Tail, error) {
	return e.s.tail(ctx, e.s.topo.Events(), from, false)
}

// AsEvent reads the subject and the headers of a stored event. The body is not parsed.
func AsEvent(m Message) Stored {
	ev := Stored{Seq: m.Seq, Time: m.Time, Body: m.Data}
	tokens := strings.Split(m.Subject, ".")
	switch {
	case len(tokens) == 6 && tokens[2] == "parts": // audatex.<site>.parts.order.<action>.<order>
		ev.Site, ev.Action, ev.Order = tokens[1], tokens[4], tokens[5]
		ev.Type = relay.TypeOrderUpdated
		if ev.Action == "created" {
			ev.Type = relay.TypeOrderCreated
		}
	case len(tokens) == 5 && tokens[2] == "relay": // audatex.<site|_>.relay.<kind>.<id>
		ev.Site, ev.Type, ev.Order = tokens[1], relay.OperationalPrefix+tokens[3], tokens[4]
	}
	if ref := m.Header.Get(HeaderInbox); ref != "" {
		ev.Inbox, _ = ParseInboxRef(ref) // a header we cannot read is no reference
	}
	if at := m.Header.Get(HeaderReceivedAt); at != "" {
		ev.ReceivedAt, _ = time.Parse(time.RFC3339, at) // likewise
		ev.CreatedAt, _ = time.Parse(time.RFC3339, m.Header.Get(HeaderCreatedAt))
		if held := m.Header.Get(HeaderHeld); held != "" {
			seconds, _ := strconv.ParseUint(held, 10, 31) // likewise
			ev.Held = time.Duration(seconds) * time.Second
		}
	}
	ev.Status, _ = url.PathUnescape(m.Header.Get(HeaderStatus)) // likewise
	ev.Changed = m.Header.Get(HeaderChanged) != ""
	return ev
}

// TailHeads is Tail without the events' bodies: enough to know that something came, and where.
func (e *Events) TailHeads(ctx context.Context, from uint64) (*Tail, error) {
	return e.s.tail(ctx, e.s.topo.Events(), from, true)
}
