package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// Any node of a cluster may serve most reads, also one that has just come back and lags. That does
// no harm where a write's condition follows, or where a reader only comes later. Where a read
// decides that a stream ends, or that something is absent, the stream's leader must be asked.

// leaderTimeout bounds one question to a stream's leader, directTimeout one to any copy.
const (
	leaderTimeout = 5 * time.Second
	directTimeout = 500 * time.Millisecond
)

// direct asks any copy of a stream, and reports whether its leader must be asked instead: a node
// that is frozen goes on getting its share of the questions until the others notice.
func (s *Store) direct(ctx context.Context, stream string, ask func(context.Context) error) (silent bool, err error) {
	sent := time.Now()
	if s.topo.Replicas <= 1 {
		err = ask(ctx)
		s.health.read(stream, sent, err)
		return false, err
	}
	short, cancel := context.WithTimeout(ctx, directTimeout)
	defer cancel()
	if err = ask(short); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return true, err // the leader's response counts
	}
	s.health.read(stream, sent, err)
	return false, err
}

// atLeader returns one message as the stream's leader has it; ErrNotFound if it has none.
func (s *Store) atLeader(ctx context.Context, stream string, which jsapi.Selection) (Message, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	sent := time.Now()
	m, err := jsapi.Get(ctx, s.js, stream, which)
	s.health.read(stream, sent, err)
	if err != nil {
		return Message{}, classify(err)
	}
	return fromRaw(&m), nil
}

// rest returns up to most messages that the leader has of the filters from a sequence (or, if since
// is set, from a time) on, and whether there are more. It asks for one message after the other.
// There are few: those that a lagging node did not have, or that were overwritten meanwhile. It
// leaves out what is written after it has begun: on a busy stream it would never end.
func (s *Store) rest(
	ctx context.Context, stream string, from uint64, since time.Time, filters []string, most int,
) (messages []Message, more bool, err error) {
	ask := jsapi.Selection{Seq: from}
	if !since.IsZero() {
		ask = jsapi.Selection{Since: &since}
	}
	if len(filters) == 0 {
		filters = []string{">"}
	}
	newest, err := s.atLeader(ctx, stream, jsapi.Selection{Last: ">"})
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	for ask.Seq <= newest.Seq {
		var next *Message
		for _, filter := range filters {
			ask.Next = filter
			m, err := s.atLeader(ctx, stream, ask)
			switch {
			case errors.Is(err, ErrNotFound):
			case err != nil:
				return nil, false, err
			case m.Seq > newest.Seq:
			case next == nil || m.Seq < next.Seq:
				next = &m
			}
		}
		if next == nil || len(messages) == most {
			return messages, next != nil, nil
		}
		messages = append(messages, *next)
		ask = jsapi.Selection{Seq: next.Seq + 1}
	}
	return messages, false, nil
}

// restMost is up to how many messages behind asks for one by one; for more, a reader costs less.
const restMost = 64

// behind is scan for what comes after an end that was seen: as a rule little, or nothing.
func (s *Store) behind(
	ctx context.Context, stream string, from uint64, since time.Time, filters []string, most int,
) ([]Message, bool, error) {
	messages, more, err := s.rest(ctx, stream, from, since, filters, min(most, restMost))
	if err != nil || !more || most <= restMost {
		return messages, more, err
	}
	return s.scan(ctx, stream, from, since, filters, most)
}

// Now returns the time by the clock of the bucket's leader. Only that clock, which gave a document its
// time, shows how old the document is.
func (b *Bucket[T]) Now(ctx context.Context) (time.Time, error) {
	info, err := b.info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of bucket %s: %w", b.name, classify(err))
	}
	return info.TimeStamp, nil
}

// last returns the bucket's last revision, by its leader.
func (b *Bucket[T]) last(ctx context.Context) (uint64, error) {
	info, err := b.info(ctx)
	return info.State.LastSeq, err
}

func (b *Bucket[T]) info(ctx context.Context) (info jetstream.StreamInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	err = jsapi.Call(ctx, b.s.js, "STREAM.INFO.KV_"+b.name, struct{}{}, &info)
	return info, err
}

// Present is what Current found under one key: Deleted with the marker's revision, or with 0 if
// there is nothing at all.
type Present[T any] struct {
	Entry[T]
	Err error
}

// Current reads documents of a bucket in one go, each at the stream's leader. Any node of a cluster
// may serve Get, also one that lags. A caller that reads back how a write ended must not rely on
// that.
func (b *Bucket[T]) Current(ctx context.Context, keys []string) []Present[T] {
	found := make([]Present[T], len(keys))
	var reading sync.WaitGroup
	for i, key := range keys {
		reading.Go(func() {
			found[i].Key = key
			if found[i].Err = b.current(ctx, &found[i].Entry); found[i].Err != nil {
				found[i].Err = fmt.Errorf("read %s of bucket %s at its leader: %w", key, b.name, found[i].Err)
			}
		})
	}
	reading.Wait()
	return found
}

func (b *Bucket[T]) current(ctx context.Context, e *Entry[T]) error {
	m, err := b.s.atLeader(ctx, "KV_"+b.name, jsapi.Selection{Last: b.subject(e.Key)})
	if errors.Is(err, ErrNotFound) {
		e.Deleted = true
		return nil
	}
	if err != nil {
		return err
	}
	e.Revision, e.Written = m.Seq, m.Time
	if e.Deleted, e.Expired = isMarker(m.Header), isExpired(m.Header); e.Deleted {
		return nil
	}
	if e.Value, err = b.codec.decode(e.Key, m.Data); err != nil {
		return fmt.Errorf("decode revision %d: %w", e.Revision, err)
	}
	return nil
}

// Holds reports whether there is a document of a key that passes, by its bytes alone. One that does
// not pass costs the same questions and the same work as one that is not there: who asks cannot
// distinguish them by the time it takes.
func (b *Bucket[T]) Holds(ctx context.Context, key string, pass func(data []byte) bool) (bool, error) {
	e, there, err := b.anyCopy(ctx, key)
	switch {
	case there && pass(e.Value()):
		return true, nil
	case errors.Is(err, ErrNotFound), there && b.s.topo.Replicas <= 1:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read %s of bucket %s: %w", key, b.name, err)
	}
	m, err := b.s.atLeader(ctx, "KV_"+b.name, jsapi.Selection{Last: b.subject(key)}) // another node may lag
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s of bucket %s at its leader: %w", key, b.name, err)
	}
	return !isMarker(m.Header) && pass(m.Data), nil
}
