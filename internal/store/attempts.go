package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
)

// Attempts is the log of every attempt, in batches of one callback each. A batch names the one
// before it, so reading newest first is a walk by sequence numbers: JetStream has no backward
// search.
type Attempts struct{ s *Store }

// AppendAll stores batches of different callbacks in one go. Each carries as condition that the
// callback's last batch is its Previous: ErrConflict means that somebody else wrote for the
// callback.
func (a *Attempts) AppendAll(ctx context.Context, batches []relay.AttemptBatch) []Result {
	requests := make([]request, len(batches))
	for i, b := range batches {
		body, err := b.Encode()
		if err != nil {
			err = fmt.Errorf("encode attempts of callback %s: %w", b.Callback, err)
			return slices.Repeat([]Result{{Err: err}}, len(batches))
		}
		requests[i] = request{
			msg:  &nats.Msg{Subject: a.s.topo.AttemptsSubject(b.Callback), Data: pack(body)},
			opts: []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(b.Previous)},
		}
	}
	return a.s.writeAll(ctx, requests)
}

// Last returns the position of the callback's last batch, 0 if it has none.
func (a *Attempts) Last(ctx context.Context, callback string) (uint64, error) {
	m, err := a.s.last(ctx, a.s.topo.Attempts(), a.s.topo.AttemptsSubject(callback))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return m.Seq, err
}

// End returns where the attempts of a callback end.
func (a *Attempts) End(ctx context.Context, callback string) (relay.AttemptsEnd, error) {
	m, err := a.s.last(ctx, a.s.topo.Attempts(), a.s.topo.AttemptsSubject(callback))
	if errors.Is(err, ErrNotFound) {
		return relay.AttemptsEnd{}, nil
	}
	if err != nil {
		return relay.AttemptsEnd{}, err
	}
	b, err := decodeAttempts(m.Data)
	if err != nil { // what follows begins a new chain
		return relay.AttemptsEnd{Position: m.Seq}, nil //nolint:nilerr // see above
	}
	return b.End(m.Seq), nil
}

// Walk calls each with the callback's batches, newest first, from position from downwards (0: from
// the last). It stops when each returns false, at the beginning of the log, or at another
// generation. At is when the log stored the batch.
func (a *Attempts) Walk(
	ctx context.Context, callback, generation string, from uint64,
	each func(seq uint64, at time.Time, b relay.AttemptBatch) bool,
) error {
	if from == 0 {
		var err error
		if from, err = a.Last(ctx, callback); err != nil || from == 0 {
			return err
		}
	}
	for from != 0 {
		m, err := a.s.get(ctx, a.s.topo.Attempts(), from)
		if errors.Is(err, ErrNotFound) { // aged out
			return nil
		}
		if err != nil {
			return err
		}
		b, err := decodeAttempts(m.Data)
		if err != nil {
			return fmt.Errorf("read attempts at %d: %w", from, err)
		}
		if b.Generation != generation || m.Subject != a.s.topo.AttemptsSubject(callback) || !each(m.Seq, m.Time, b) {
			return nil
		}
		from = b.Previous
	}
	return nil
}

// Scan calls each with the callback's batches that the log took since a time, oldest first, up to
// the position through. It stops when each returns false.
func (a *Attempts) Scan(
	ctx context.Context, callback, generation string, since time.Time, through uint64,
	each func(b relay.AttemptBatch) bool,
) error {
	read, bytes := 0, 0
	filters := []string{a.s.topo.AttemptsSubject(callback)}
	for from := uint64(0); from <= through; {
		messages, more, err := a.s.scan(ctx, a.s.topo.Attempts(), from, since, filters, windowSize(read, bytes))
		if err != nil {
			return err
		}
		for _, m := range messages {
			from, since = m.Seq+1, time.Time{}
			read, bytes = read+1, bytes+len(m.Data)
			if m.Seq > through {
				return nil
			}
			b, err := decodeAttempts(m.Data)
			if err != nil {
				return fmt.Errorf("read attempts at %d: %w", m.Seq, err)
			}
			if b.Generation == generation && !each(b) {
				return nil
			}
		}
		if !more || len(messages) == 0 {
			return nil
		}
	}
	return nil
}
