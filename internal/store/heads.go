package store

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// headsFilters is up to how many connections Heads asks for by name: many filters cost the server more than reading all.
const headsFilters = 64

// Heads answers the sequence of the last page of each of the connections, 0 for one that has none, without reading the pages. It
// costs one reader however many there are.
func (i *Inbox) Heads(ctx context.Context, connections []string) (map[string]uint64, error) {
	filters := []string{i.s.topo.InboxSubject("*")}
	if len(connections) <= headsFilters {
		filters = nil
		for _, c := range connections {
			filters = append(filters, i.s.topo.InboxSubject(c))
		}
	}
	heads := make(map[string]uint64, len(connections))
	for _, c := range connections {
		heads[c] = 0
	}
	if len(connections) == 0 {
		return heads, nil
	}
	stream := i.s.topo.Inbox()
	consumer, err := i.s.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy, FilterSubjects: filters, HeadersOnly: true,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: readerIdle,
	})
	if err != nil {
		return nil, fmt.Errorf("read the heads of %s: %w", stream, classify(err))
	}
	defer i.s.dropReader(ctx, stream, consumer.CachedInfo().Name)
	for pending := consumer.CachedInfo().NumPending; pending > 0; {
		batch, err := consumer.FetchNoWait(listChunk)
		if err != nil {
			return nil, fmt.Errorf("read the heads of %s: %w", stream, classify(err))
		}
		for m := range batch.Messages() {
			message, err := fromDelivered(m)
			if err != nil {
				return nil, fmt.Errorf("read the heads of %s: %w", stream, err)
			}
			if c := i.ConnectionOf(message); heads[c] < message.Seq {
				if _, asked := heads[c]; asked {
					heads[c] = message.Seq
				}
			}
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read the heads of %s: %w", stream, classify(err))
		}
		// An empty fetch is not the end: the consumer's own count says what is left.
		info, err := consumer.Info(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the heads of %s: %w", stream, classify(err))
		}
		pending = info.NumPending
	}
	return heads, nil
}

// dropReader ends a reader that has read all it was made for; if that fails, readerIdle ends it.
func (s *Store) dropReader(ctx context.Context, stream, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readerIdle)
	defer cancel()
	_ = s.js.DeleteConsumer(ctx, stream, name)
}
