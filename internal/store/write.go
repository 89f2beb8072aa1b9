package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/jsapi"
)

// writeTimeout bounds one write. A cluster's change of leader takes 4 to 9 s; a write that waits
// longer is better read back.
const writeTimeout = 10 * time.Second

// A replicated stream refuses a conditional write while another of the same subject is on its way
// to the followers: only when that has ended is it known whether the condition holds. So the write
// is sent again, as a rule once.
const (
	// inFlightMost is how long it is sent again, inFlightFirst to inFlightPause apart, if its
	// caller has inFlightLeast left for the response.
	inFlightMost  = 5 * time.Second
	inFlightFirst = 4 * time.Millisecond
	inFlightPause = 50 * time.Millisecond
	inFlightLeast = 250 * time.Millisecond
)

// inFlight reports whether a write was refused, and not stored, as another of its subject was under
// way.
func inFlight(err error) bool {
	return jsapi.Code(err) == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// turns are those that a write in others' way has.
type turns struct {
	until time.Time
	pause time.Duration
}

func newTurns(ctx context.Context) turns {
	t := turns{time.Now().Add(inFlightMost), inFlightFirst}
	if end, ok := ctx.Deadline(); ok && end.Add(-inFlightLeast).Before(t.until) {
		t.until = end.Add(-inFlightLeast)
	}
	return t
}

// next waits for the next turn, and returns false if there is none.
func (t *turns) next(ctx context.Context) bool {
	wait := t.pause/2 + rand.N(t.pause) // those that met must not meet again
	if time.Now().Add(wait).After(t.until) {
		return false
	}
	t.pause = min(2*t.pause, inFlightPause)
	backoff.Sleep(ctx, wait)
	return ctx.Err() == nil
}

// Write is one write on its way, as a gate sees it.
type Write struct {
	Subject string
	Size    int
}

// Gate sees every write before it is sent and after its response. An error from Before keeps the
// write from being sent. One from After hides the response, as a crash at that point would. Only
// tests set one.
type Gate struct {
	Before func(Write) error
	After  func(Write) error
}

// request is a write with its condition.
type request struct {
	msg      *nats.Msg
	opts     []jetstream.PublishOpt
	precious bool // exists nowhere else: may use the disk's reserve
}

// recordMost is about what the server stores of a message besides what it holds.
const recordMost = 64

// stored returns the room that a message takes in its log.
func stored(m *nats.Msg) int { return m.Size() + recordMost }

// admit returns an error if a write must not be sent, nil otherwise.
func (s *Store) admit(r request) error {
	if err := pass(s.gate.Before, r.msg); err != nil {
		return err
	}
	if err := s.health.reachable(); err != nil {
		return fmt.Errorf("write %s: %w", r.msg.Subject, err)
	}
	if err := s.room.check(r.precious); err != nil {
		s.health.wrote(s.streamOf(r.msg.Subject), stored(r.msg), time.Now(), err)
		return fmt.Errorf("write %s: %w", r.msg.Subject, err)
	}
	return nil
}

// write stores one write and returns its stream sequence (for a bucket: its revision).
func (s *Store) write(ctx context.Context, r request) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for t := newTurns(ctx); ; {
		if seq, err := s.send(ctx, r); !inFlight(err) || !t.next(ctx) {
			return seq, err
		}
	}
}

func (s *Store) send(ctx context.Context, r request) (uint64, error) {
	done, err := s.movePositions(ctx, r)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := s.admit(r); err != nil {
		return 0, err
	}
	stream, sent := s.streamOf(r.msg.Subject), time.Now()
	log := s.intact.of(stream)
	before := log.highest()
	ack, err := s.js.PublishMsg(ctx, r.msg, r.opts...)
	s.health.wrote(stream, stored(r.msg), sent, err)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", r.msg.Subject, classify(err))
	}
	s.acknowledged(log, before, r.msg, ack)
	if err := pass(s.gate.After, r.msg); err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// Result is how one of many writes ended.
type Result struct {
	Seq uint64
	Err error
}

// writeAll stores many writes without waiting in between, and returns how each ended, in the same
// order. The store takes them in the order given, except those that are sent again.
func (s *Store) writeAll(ctx context.Context, requests []request) []Result {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	results := s.sendAll(ctx, requests)
	for t := newTurns(ctx); ; {
		var again []request
		var of []int
		for i, r := range results {
			if inFlight(r.Err) {
				again, of = append(again, requests[i]), append(of, i)
			}
		}
		if len(again) == 0 || !t.next(ctx) {
			return results
		}
		for i, r := range s.sendAll(ctx, again) {
			results[of[i]] = r
		}
	}
}

func (s *Store) sendAll(ctx context.Context, requests []request) []Result {
	results := make([]Result, len(requests))
	done, err := s.movePositions(ctx, requests...)
	if err != nil {
		return slices.Repeat([]Result{{Err: err}}, len(requests))
	}
	defer done()
	futures := make([]jetstream.PubAckFuture, len(requests))
	sent := make([]time.Time, len(requests))
	for i, r := range requests {
		if results[i].Err = s.admit(r); results[i].Err != nil {
			continue
		}
		sent[i] = time.Now()
		f, err := s.js.PublishMsgAsync(r.msg, append(r.opts, jetstream.WithStallWait(writeTimeout))...)
		if err != nil {
			s.health.wrote(s.streamOf(r.msg.Subject), stored(r.msg), sent[i], err)
			results[i].Err = fmt.Errorf("write %s: %w", r.msg.Subject, classify(err))
			continue
		}
		futures[i] = f
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		var err error
		select {
		case ack := <-f.Ok():
			results[i].Seq = ack.Sequence
		case err = <-f.Err():
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.health.wrote(s.streamOf(requests[i].msg.Subject), stored(requests[i].msg), sent[i], err)
		if err != nil {
			results[i].Err = fmt.Errorf("write %s: %w", requests[i].msg.Subject, classify(err))
		} else if err := pass(s.gate.After, requests[i].msg); err != nil {
			results[i] = Result{Err: err}
		}
	}
	return results
}

func pass(gate func(Write) error, m *nats.Msg) error {
	if gate == nil {
		return nil
	}
	return gate(Write{Subject: m.Subject, Size: len(m.Data)})
}

const (
	// LeastMessage is the least that NATS must take in one message: every document of the relay's
	// own fits in it.
	LeastMessage = 512 << 10
	// WantedMessage is what NATS should take: a response of the vendor's queue with its envelope,
	// and an order with what of it has changed, fit in it.
	WantedMessage = 8 << 20
	// headerReserve is the room for the headers that a write's conditions become.
	headerReserve = 512
)

// MaxMessage returns how many bytes NATS takes in one message now, headers included: the
// max_payload of the server that this connection leads to, or of the account. It may change when
// the connection is made again.
func (s *Store) MaxMessage() int { return int(s.conn.MaxPayload()) }

// MaxDocument returns how many bytes of a document fit in a bucket now.
func (s *Store) MaxDocument() int { return s.MaxMessage() - headerReserve }

// headerBytes returns how many bytes of a message's size are its headers, those of its conditions
// included.
func headerBytes(h nats.Header) int {
	n := headerReserve
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}
