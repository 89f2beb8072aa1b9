package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/relay"
)

// Headers of an inbox message: the envelope around a page's untouched bytes.
const (
	headerPollID      = "Relay-Poll-Id"
	headerReceivedAt  = "Relay-Received-At"
	headerGeneration  = "Relay-Generation"
	headerSite        = "Relay-Site"
	headerSites       = "Relay-Sites"
	headerLevel       = "Relay-Level"
	headerTruncated   = "Relay-Truncated"
	headerEncoding    = "Relay-Content-Encoding"
	headerCorrelation = "Relay-Correlation-Id"
	headerEntries     = "Relay-Entries"
	headerPart        = "Relay-Part"
	headerMore        = "Relay-More"
	headerSize        = "Relay-Size"
	headerForeign     = "Relay-Foreign"
)

// Inbox is the log of what vendor polls brought.
type Inbox struct{ s *Store }

// Page is one message of the inbox: what one poll of the vendor's queue brought, or a part of it,
// and what the connection's sites were called at that moment.
type Page struct {
	Seq           uint64 // position in the inbox, set when read
	PollID        string
	Connection    string
	Generation    string
	ReceivedAt    time.Time
	Site          string            // of every vendor site id that Sites does not name
	Sites         map[string]string // vendor site id to our site
	Level         relay.Level       // of the consent, with which a notification that names no site may have one
	Truncated     bool              // the response was cut or over the limit: Body is what came
	Encoding      string            // the content encoding that Body still has, as it cannot be undone
	CorrelationID string
	Body          []byte

	// Entries is how many entries the resolver makes of Body, so that those that wait can be
	// counted without the bodies.
	Entries int
	// Part numbers the messages of a poll whose response did not fit in one, from 1; 0: it did fit.
	// More means that this is not the last one.
	Part int
	More bool
	// Size, if not 0, is how many bytes of the response did not fit in any message. Body has the first
	// of them. Foreign means that they hold no notification.
	Size    int
	Foreign bool
}

// EndsPoll reports whether a page is the last that was stored of a poll.
func (p Page) EndsPoll(pollID string) bool { return p.PollID == pollID && !p.More }

// Append stores a page. Storing the same part of a poll twice stores it once.
func (i *Inbox) Append(ctx context.Context, p Page) (uint64, error) {
	m, err := i.envelope(p)
	if err != nil {
		return 0, err
	}
	m.Data = p.Body
	id := p.PollID
	if p.Part > 0 {
		id += "/" + strconv.Itoa(p.Part)
	}
	return i.s.write(ctx, request{msg: m, opts: []jetstream.PublishOpt{jetstream.WithMsgID(id)}, precious: true})
}

// Room returns how many bytes of a body fit in one message with a page's envelope, at present.
func (i *Inbox) Room(p Page) (int, error) {
	m, err := i.envelope(p)
	if err != nil {
		return 0, err
	}
	return i.s.MaxMessage() - headerBytes(m.Header), nil
}

// envelope returns the message of a page, without its body.
func (i *Inbox) envelope(p Page) (*nats.Msg, error) {
	sites, err := json.Marshal(p.Sites)
	if err != nil {
		return nil, fmt.Errorf("encode the sites of connection %s: %w", p.Connection, err)
	}
	m := nats.NewMsg(i.s.topo.InboxSubject(p.Connection))
	m.Header.Set(headerPollID, p.PollID)
	m.Header.Set(headerReceivedAt, p.ReceivedAt.UTC().Format(time.RFC3339Nano))
	m.Header.Set(headerGeneration, p.Generation)
	m.Header.Set(headerSite, p.Site)
	m.Header.Set(headerSites, string(sites))
	m.Header.Set(headerEntries, strconv.Itoa(p.Entries))
	for _, optional := range []struct {
		header, value string
		given         bool
	}{
		{headerCorrelation, p.CorrelationID, p.CorrelationID != ""}, {headerEncoding, p.Encoding, p.Encoding != ""},
		{headerLevel, string(p.Level), p.Level != ""},
		{headerPart, strconv.Itoa(p.Part), p.Part > 0}, {headerSize, strconv.Itoa(p.Size), p.Size > 0},
		{headerTruncated, "true", p.Truncated}, {headerMore, "true", p.More}, {headerForeign, "true", p.Foreign},
	} {
		if optional.given {
			m.Header.Set(optional.header, optional.value)
		}
	}
	return m, nil
}

// Last returns the connection's last page, as the inbox's leader has it; ErrNotFound if it has
// none.
func (i *Inbox) Last(ctx context.Context, connection string) (Page, error) {
	m, err := i.s.atLeader(ctx, i.s.topo.Inbox(), jsapi.Selection{Last: i.s.topo.InboxSubject(connection)})
	if err != nil {
		return Page{}, fmt.Errorf("read the last page of connection %s: %w", connection, err)
	}
	return i.page(m), nil
}

// Scan returns up to max pages of a connection from a sequence on, and whether more are there.
func (i *Inbox) Scan(ctx context.Context, connection string, from uint64, max int) ([]Page, bool, error) {
	messages, more, err := i.s.scan(ctx, i.s.topo.Inbox(), from, time.Time{},
		[]string{i.s.topo.InboxSubject(connection)}, max)
	if err != nil {
		return nil, false, err
	}
	return each.Of(messages, i.page), more, nil
}

// Page returns the page at a sequence; ErrNotFound if there is none.
func (i *Inbox) Page(ctx context.Context, seq uint64) (Page, error) {
	m, err := i.s.get(ctx, i.s.topo.Inbox(), seq)
	if errors.Is(err, ErrNotFound) && i.s.topo.Replicas > 1 { // the node that was asked may lag
		m, err = i.s.atLeader(ctx, i.s.topo.Inbox(), jsapi.Selection{Seq: seq})
	}
	if err != nil {
		return Page{}, err
	}
	return i.page(m), nil
}

// Find returns the first of the connection's pages from a sequence on that is the one wanted;
// ErrNotFound if it is not there.
func (i *Inbox) Find(ctx context.Context, connection string, from uint64, wanted func(Page) bool) (Page, error) {
	for {
		pages, more, err := i.Scan(ctx, connection, from, 8)
		if err != nil {
			return Page{}, err
		}
		for _, p := range pages {
			if wanted(p) {
				return p, nil
			}
			from = p.Seq + 1
		}
		if !more || len(pages) == 0 {
			return Page{}, fmt.Errorf("page of connection %s: %w", connection, ErrNotFound)
		}
	}
}

// EachHead calls each with the pages of one generation of a connection from a sequence on, without
// their bodies: at most with the first countMost.
func (i *Inbox) EachHead(ctx context.Context, connection, generation string, from uint64, each func(Page)) error {
	heads := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		FilterSubjects: []string{i.s.topo.InboxSubject(connection)}, HeadersOnly: true,
	}
	if _, _, err := i.s.readNow(ctx, i.s.topo.Inbox(), heads, wholeMessages, countMost, func(m Message) {
		if p := i.page(m); p.Generation == generation {
			each(p)
		}
	}); err != nil {
		return fmt.Errorf("read the heads of connection %s: %w", connection, err)
	}
	return nil
}

// countMost bounds the pages of one connection that are counted: at a poll every five minutes that
// is over a month.
const countMost = 10_000

// Bounds returns the first and last sequence of the inbox; first = last+1 when it is empty.
func (i *Inbox) Bounds(ctx context.Context) (first, last uint64, err error) {
	return i.s.bounds(ctx, i.s.topo.Inbox())
}

// Tail follows the inbox from a sequence on, without the pages' bodies. It shows which connections
// have something to read.
func (i *Inbox) Tail(ctx context.Context, from uint64) (*Tail, error) {
	return i.s.tail(ctx, i.s.topo.Inbox(), from, true)
}

// ConnectionOf returns whose page a message of Tail is; "" if its subject is no connection's.
func (i *Inbox) ConnectionOf(m Message) string {
	connection, _ := i.s.topo.ParseInboxSubject(m.Subject)
	return connection
}

// page reads an envelope tolerantly: even if a header is wrong, the body must still be resolved.
func (i *Inbox) page(m Message) Page {
	p := Page{
		Seq: m.Seq, PollID: m.Header.Get(headerPollID), Connection: i.ConnectionOf(m),
		Generation: m.Header.Get(headerGeneration), Site: m.Header.Get(headerSite),
		Level: relay.Level(m.Header.Get(headerLevel)), Truncated: m.Header.Get(headerTruncated) != "",
		Encoding: m.Header.Get(headerEncoding), CorrelationID: m.Header.Get(headerCorrelation), Body: m.Data,
		ReceivedAt: m.Time,
	}
	if t, err := time.Parse(time.RFC3339Nano, m.Header.Get(headerReceivedAt)); err == nil {
		p.ReceivedAt = t
	}
	p.Entries, _ = strconv.Atoi(m.Header.Get(headerEntries)) // what cannot be read is 0
	p.Part, _ = strconv.Atoi(m.Header.Get(headerPart))
	p.Size, _ = strconv.Atoi(m.Header.Get(headerSize))
	p.More, p.Foreign = m.Header.Get(headerMore) != "", m.Header.Get(headerForeign) != ""
	if sites := m.Header.Get(headerSites); sites != "" {
		if json.Unmarshal([]byte(sites), &p.Sites) != nil {
			p.Site, p.Sites = "", nil // of no known site: kept as unresolved, rather than taken for another site's
		}
	}
	return p
}

// headsAsked is up to how many connections Heads asks for one by one; for more, one reader of their
// shards costs the server less.
const headsAsked = 64

// Heads returns the sequence of the last page of each of the connections, 0 for one that has none.
// No page stored before the call is missing, even if a node of the cluster lags: a replica that
// takes a connection over would not learn of it again.
func (i *Inbox) Heads(ctx context.Context, connections []string) (map[string]uint64, error) {
	if err := i.s.health.reachable(); err != nil {
		return nil, fmt.Errorf("read the heads of the inbox: %w", err)
	}
	heads := make(map[string]uint64, len(connections))
	for _, c := range connections {
		heads[c] = 0
	}
	read := i.readHeads
	if len(connections) <= headsAsked {
		read = i.askHeads
	}
	if err := read(ctx, heads); err != nil {
		return nil, fmt.Errorf("read the heads of %s: %w", i.s.topo.Inbox(), err)
	}
	return heads, nil
}

// askHeads asks the inbox's leader for each connection's last page.
func (i *Inbox) askHeads(ctx context.Context, heads map[string]uint64) error {
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for _, c := range slices.Collect(maps.Keys(heads)) {
		asking.Go(func() {
			m, err := i.s.atLeader(ctx, i.s.topo.Inbox(), jsapi.Selection{Last: i.s.topo.InboxSubject(c)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				heads[c] = m.Seq
			} else if !errors.Is(err, ErrNotFound) {
				failed = err
			}
		})
	}
	asking.Wait()
	return failed
}

// readHeads reads the last page of every connection of the shards concerned, without the pages themselves.
func (i *Inbox) readHeads(ctx context.Context, heads map[string]uint64) error {
	shards := map[string]bool{}
	for c := range heads {
		shards[i.s.topo.ShardPages(relay.ShardOf(c))] = true
	}
	stream, filters := i.s.topo.Inbox(), []string{i.s.topo.AllPages()}
	if len(shards) <= FewPrefixes {
		filters = slices.Collect(maps.Keys(shards))
	}
	newest := uint64(0)
	note := func(m Message) {
		newest = max(newest, m.Seq)
		if c := i.ConnectionOf(m); heads[c] < m.Seq {
			if _, asked := heads[c]; asked {
				heads[c] = m.Seq
			}
		}
	}
	_, full, err := i.s.readNow(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: filters, HeadersOnly: true,
	}, wholeMessages, math.MaxUint64, note)
	if err != nil || full && i.s.topo.Replicas <= 1 {
		return err
	}
	for more := true; more; { // the reader's node may lag, or have lost count
		var late []Message
		if late, more, err = i.s.rest(ctx, stream, newest+1, time.Time{}, filters, listChunk); err != nil {
			return err
		}
		for _, m := range late {
			note(m)
		}
	}
	return nil
}
