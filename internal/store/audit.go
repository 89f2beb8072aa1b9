package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/relay"
)

// Audit is the log of requested changes. Nothing removes a record before its age does.
type Audit struct{ s *Store }

// Audited is a record as it is in the log.
type Audited struct {
	relay.AuditRecord

	Seq  uint64
	Time time.Time // when the log took it
}

// Append stores a record and returns its position.
func (a *Audit) Append(ctx context.Context, r relay.AuditRecord) (uint64, error) {
	body, err := relay.Encode(r)
	if err != nil {
		return 0, fmt.Errorf("encode the audit record of request %s: %w", r.Request, err)
	}
	return a.s.write(ctx, request{msg: &nats.Msg{Subject: a.s.topo.AuditSubject(r.Client), Data: body}})
}

// Scan returns up to most records of a client ("" for all records) from a position on, and whether
// more are there. One that cannot be read is left out.
func (a *Audit) Scan(ctx context.Context, from uint64, client string, most int) ([]Audited, bool, error) {
	messages, more, err := a.s.scan(ctx, a.s.topo.Audit(), from, time.Time{}, a.filters(client), most)
	return audited(messages), more, err
}

// Since returns the position of the first record that the log took at a time or later; the one
// after the last if there is none.
func (a *Audit) Since(ctx context.Context, at time.Time) (uint64, error) {
	return a.s.positionAt(ctx, a.s.topo.Audit(), at)
}

// Bounds returns the first and last position of the log; first = last+1 when it is empty.
func (a *Audit) Bounds(ctx context.Context) (first, last uint64, err error) {
	return a.s.bounds(ctx, a.s.topo.Audit())
}

func (a *Audit) filters(client string) []string {
	if client == "" {
		return nil
	}
	return []string{a.s.topo.AuditSubject(client)}
}

func audited(messages []Message) []Audited {
	records := make([]Audited, 0, len(messages))
	for _, m := range messages {
		r := Audited{Seq: m.Seq, Time: m.Time}
		if json.Unmarshal(m.Data, &r.AuditRecord) == nil {
			records = append(records, r)
		}
	}
	return records
}
