package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// readerIdle is how long the server keeps a reader's state after its last request: a reader that crashed leaves no more than that.
	readerIdle = 30 * time.Second
	// readerPatience is how long a reader may answer nothing although messages are waiting for it. A new leader takes up to 9 s.
	readerPatience = 10 * time.Second
	// unheardMost is how long a reader that was made just now is asked again while nobody seems to listen for it, unheardWait apart.
	unheardMost = 2 * time.Second
	unheardWait = 25 * time.Millisecond
	// readerEnd bounds ending one. If that fails, readerIdle ends it.
	readerEnd = time.Second
)

// reader reads what a stream holds now. Its state is in one server's memory.
type reader struct {
	s        *Store
	stream   string
	consumer jetstream.Consumer
	pending  uint64 // how many messages there were when it was made
}

// reader makes one; c says where it begins and what it reads. Whoever makes one ends it.
func (s *Store) reader(ctx context.Context, stream string, c jetstream.ConsumerConfig) (*reader, error) {
	c.AckPolicy, c.MemoryStorage, c.Replicas, c.InactiveThreshold = jetstream.AckNonePolicy, true, 1, readerIdle
	consumer, err := s.js.CreateConsumer(ctx, stream, c)
	s.health.read(stream, err)
	if err != nil {
		return nil, classify(err)
	}
	return &reader{s: s, stream: stream, consumer: consumer, pending: consumer.CachedInfo().NumPending}, nil
}

// end ends it also after ctx of its work has ended.
func (r *reader) end() {
	ctx, cancel := context.WithTimeout(context.Background(), readerEnd)
	defer cancel()
	_ = r.s.js.DeleteConsumer(ctx, r.stream, r.consumer.CachedInfo().Name)
}

// read calls each with up to want messages; fewer come when what was counted has gone meanwhile. A reader whose server has died ends in
// ErrUnavailable.
func (r *reader) read(ctx context.Context, want uint64, each func(Message)) error {
	progress := time.Now()
	for got := uint64(0); got < want; {
		if err := ctx.Err(); err != nil {
			return classify(err)
		}
		if time.Since(progress) > readerPatience {
			return fmt.Errorf("%w: its reader answered nothing for %s", ErrUnavailable, readerPatience)
		}
		n, err := r.fetch(int(min(want-got, listChunk)), each)
		if got += n; n > 0 {
			progress = time.Now()
		}
		switch {
		case errors.Is(err, nats.ErrNoResponders) && time.Since(progress) < unheardMost:
			// On a cluster the reader lives on another server, which may have answered before ours has heard that it listens.
			pause(ctx, unheardWait)
			continue
		case err != nil:
			return err
		case n > 0:
			continue
		}
		// An empty fetch is not the end: the reader's own count says what is left.
		now, err := r.consumer.Info(ctx)
		if err != nil {
			return classify(err)
		}
		if now.NumPending == 0 {
			return nil
		}
		want = min(want, got+now.NumPending)
		pause(ctx, unheardWait)
	}
	return nil
}

// fetch answers how many messages came of those that are there now, at most most.
func (r *reader) fetch(most int, each func(Message)) (n uint64, err error) {
	batch, err := r.consumer.FetchNoWait(most)
	if err != nil {
		return 0, classify(err)
	}
	for m := range batch.Messages() {
		message, bad := fromDelivered(m)
		if bad != nil {
			err = bad
			continue
		}
		each(message)
		n++
	}
	if err != nil {
		return n, err
	}
	return n, classify(batch.Error())
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
