package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

// archive is what the two logs hold, read as anybody could read them.
type archive struct {
	read   time.Time       // when reading began: what was reported since may not be in it
	answer map[string]page // by the correlation id of the vendor's response
	events []logged
	byID   map[string]logged
}

// page is an entry of the inbox.
type page struct {
	seq        uint64
	connection string
	answer     string // correlation id
	whole      bool   // else the response was cut on the wire: what is whole of it is resolved all the same
	entries    int    // notifications to be resolved
}

// logged is an entry of the log of events.
type logged struct {
	seq     uint64
	at      time.Time // when the log took it
	id      string
	kind    string // "" of an order's event, else what the relay reports, for example "gap-suspected"
	site    string
	subject string
	inbox   string // connection/sequence/index
	body    []byte
}

// readArchive reads both logs to their ends.
func (w *world) readArchive() (archive, error) {
	a := archive{read: time.Now(), answer: map[string]page{}, byID: map[string]logged{}}
	err := w.readStream("relay_inbox", func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		connection, ok := topology.Topology{Prefix: "relay"}.ParseInboxSubject(m.Subject())
		if !ok {
			return fmt.Errorf("the inbox at %d: %s is no connection's subject", meta.Sequence.Stream, m.Subject())
		}
		p := page{seq: meta.Sequence.Stream, connection: connection, answer: m.Headers().Get("Relay-Correlation-Id")}
		var list []json.RawMessage
		if json.Unmarshal(m.Data(), &list) == nil {
			p.whole, p.entries = true, len(list)
		}
		if before, twice := a.answer[p.answer]; twice {
			return fmt.Errorf("the answer %s is stored twice, at %d and at %d", p.answer, before.seq, p.seq)
		}
		a.answer[p.answer] = p
		return nil
	})
	if err != nil {
		return a, err
	}
	cut := map[string]string{} // responses, by where they lie
	for answer, p := range a.answer {
		if !p.whole {
			cut[fmt.Sprintf("%s/%d", p.connection, p.seq)] = answer
		}
	}
	err = w.readStream("relay_events", func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		var ev struct{ ID, Type, Site, Subject string }
		if err := json.Unmarshal(m.Data(), &ev); err != nil {
			return fmt.Errorf("the log at %d: %w", meta.Sequence.Stream, err)
		}
		e := logged{seq: meta.Sequence.Stream, at: meta.Timestamp, id: ev.ID, site: ev.Site, subject: ev.Subject,
			inbox: m.Headers().Get("Relay-Inbox"), body: m.Data()}
		e.kind, _ = strings.CutPrefix(ev.Type, "audatex.relay.")
		if e.kind == ev.Type {
			e.kind = ""
		}
		if before, twice := a.byID[e.id]; twice {
			return fmt.Errorf("event %s stands in the log twice, at %d and at %d", e.id, before.seq, e.seq)
		}
		a.events, a.byID[e.id] = append(a.events, e), e
		if at := strings.LastIndexByte(e.inbox, '/'); at > 0 && cut[e.inbox[:at]] != "" {
			p := a.answer[cut[e.inbox[:at]]]
			p.entries++
			a.answer[p.answer] = p
		}
		return nil
	})
	return a, err
}

// readStream reads a stream to where it ends now.
func (w *world) readStream(name string, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := w.bus.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	last := s.CachedInfo().State.LastSeq
	if last == 0 {
		return nil
	}
	c, err := w.bus.js.OrderedConsumer(ctx, name,
		jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	messages, err := c.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := take(m, meta); err != nil {
			return err
		}
		if meta.Sequence.Stream >= last {
			return nil
		}
	}
}

// said returns the times that the relay's events of a kind have under a key of their details, by
// their subject.
func (a archive) said(t testing.TB, kind, key string) map[string][]time.Time {
	t.Helper()
	said := map[string][]time.Time{}
	for _, e := range a.events {
		if e.kind != kind {
			continue
		}
		var ev struct {
			Data struct {
				Details map[string]any `json:"details"`
			} `json:"data"`
		}
		if err := json.Unmarshal(e.body, &ev); err != nil {
			t.Errorf("the log at %d: %v", e.seq, err)
			continue
		}
		text, _ := ev.Data.Details[key].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Errorf("event %s tells no time under %s: %v", e.id, key, err)
			continue
		}
		said[e.subject] = append(said[e.subject], at)
	}
	return said
}
