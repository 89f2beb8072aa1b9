package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
)

const (
	// readerIdle is how long the server keeps a reader's state after its last request: a reader
	// that crashed leaves no more than that.
	readerIdle = 30 * time.Second
	// readerPatience is how long a reader may send nothing although messages are waiting for it. A
	// new leader takes up to 9 s.
	readerPatience = 10 * time.Second
	// unheardMost is how long a reader that was made just now is asked again while nobody seems to
	// listen for it, unheardWait apart.
	unheardMost = 2 * time.Second
	unheardWait = 25 * time.Millisecond
	// gentleMost is how many messages are read at a time where reading must not hold up others, and gentlePause the
	// pause in between. A page of 512 events that is read at once keeps both of two CPUs busy for 8 ms.
	gentleMost  = 32
	gentlePause = time.Millisecond
	// readerEnd bounds ending one. If that fails, readerIdle ends it.
	readerEnd = time.Second
)

// errSilence reports that messages were sent to a reader that did not get them: the client library
// waits a second for the next one, and the server sends none twice.
var errSilence = errors.New("messages were lost on their way to the reader")

// reader reads what a stream holds now. Its state is in one server's memory.
type reader struct {
	s        *Store
	stream   string
	config   jetstream.ConsumerConfig
	how      manner // only gently counts here
	consumer jetstream.Consumer
	pending  uint64 // how many messages there were when it was made
	received uint64 // of those that the server has sent; it counts them
	last     uint64 // the sequence of the last one
}

// reader creates a reader; c sets where it begins and what it reads. The caller must end it.
func (s *Store) reader(
	ctx context.Context, stream string, c jetstream.ConsumerConfig, how manner,
) (*reader, error) {
	c.AckPolicy, c.MemoryStorage, c.Replicas, c.InactiveThreshold = jetstream.AckNonePolicy, true, 1, readerIdle
	r := &reader{s: s, stream: stream, config: c, how: how}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// readNow calls each with what c selects of a stream now, at most with most messages. It returns
// how many there were when it began, and whether as many came as were counted (see read).
func (s *Store) readNow(
	ctx context.Context, stream string, c jetstream.ConsumerConfig, how manner, most uint64, each func(Message),
) (there uint64, full bool, err error) {
	if err := s.health.reachable(); err != nil {
		return 0, false, err
	}
	r, err := s.reader(ctx, stream, c, how)
	if err != nil {
		return 0, false, err
	}
	defer r.end()
	there = r.pending
	full, err = r.read(ctx, min(there, most), each)
	return there, full, err
}

func (r *reader) begin(ctx context.Context) error {
	sent := time.Now()
	consumer, err := r.s.js.CreateConsumer(ctx, r.stream, r.config)
	r.s.health.read(r.stream, sent, err)
	if err != nil {
		return classify(err)
	}
	r.consumer, r.pending, r.received = consumer, consumer.CachedInfo().NumPending, 0
	return nil
}

// again begins again behind the last message that came. What is read by subject begins from the
// start: its order is not the stream's alone.
func (r *reader) again(ctx context.Context) (whole bool, err error) {
	r.end()
	switch {
	case r.config.DeliverPolicy == jetstream.DeliverLastPerSubjectPolicy:
		whole = true
	case r.last > 0:
		r.config.DeliverPolicy, r.config.OptStartSeq, r.config.OptStartTime = jetstream.DeliverByStartSequencePolicy,
			r.last+1, nil
	}
	return whole, r.begin(ctx)
}

// end ends it also after ctx of its work has ended.
func (r *reader) end() {
	ctx, cancel := context.WithTimeout(context.Background(), readerEnd)
	defer cancel()
	_ = r.s.js.DeleteConsumer(ctx, r.stream, r.consumer.CachedInfo().Name)
}

// read calls each with up to want messages, and returns whether that many came. Fewer come when
// messages that were counted have gone meanwhile, or were counted wrong (overwritten). Only the
// leader can report which of the two it was. Otherwise none is left out; where a reader reads the
// last ones by subject, one may come twice. A reader whose server has died ends in ErrUnavailable.
func (r *reader) read(ctx context.Context, want uint64, each func(Message)) (full bool, err error) {
	progress := time.Now()
	full = true
	atOnce := uint64(listChunk)
	if r.how&gently != 0 {
		atOnce = gentleMost
	}
	for got := uint64(0); got < want; {
		if got > 0 && r.how&gently != 0 {
			backoff.Sleep(ctx, gentlePause)
		}
		if err := ctx.Err(); err != nil {
			return false, classify(err)
		}
		if time.Since(progress) > readerPatience {
			return false, fmt.Errorf("%w: its reader answered nothing for %s", ErrUnavailable, readerPatience)
		}
		n, err := r.fetch(int(min(want-got, atOnce)), each)
		if got += n; n > 0 {
			progress = time.Now()
		}
		switch {
		case errors.Is(err, nats.ErrNoResponders) && time.Since(progress) < unheardMost:
			// On a cluster the reader lives on another server, which may have responded before ours
			// has learned that it listens.
			backoff.Sleep(ctx, unheardWait)
			continue
		case errors.Is(err, errSilence): // seen below
		case err != nil:
			return false, err
		case n > 0:
			continue
		}
		// An empty fetch is not the end: the reader's own count shows what is left.
		now, err := r.consumer.Info(ctx)
		if err != nil {
			return false, classify(err)
		}
		left := want - got
		if now.Delivered.Consumer != r.received {
			whole, err := r.again(ctx)
			if err != nil {
				return false, err
			}
			if whole {
				got, left = 0, r.pending
			}
			now.NumPending = r.pending
		} else if now.NumPending > 0 {
			backoff.Sleep(ctx, unheardWait)
		}
		full = full && left <= now.NumPending
		want = got + min(left, now.NumPending)
	}
	return full, nil
}

// fetch returns how many messages came of those that are there now, at most most.
func (r *reader) fetch(most int, each func(Message)) (n uint64, err error) {
	batch, err := r.consumer.FetchNoWait(most)
	if err != nil {
		return 0, classify(err)
	}
	for m := range batch.Messages() {
		meta, bad := m.Metadata()
		switch {
		case err != nil:
		case bad != nil:
			err = fmt.Errorf("read a message's position: %w", bad)
		case meta.Sequence.Consumer != r.received+1:
			err = errSilence
		default:
			r.received, r.last = meta.Sequence.Consumer, meta.Sequence.Stream
			each(asMessage(m, meta))
			n++
		}
	}
	if err != nil {
		return n, err
	}
	return n, classify(batch.Error())
}
