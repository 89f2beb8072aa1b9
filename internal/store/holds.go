package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// Holds reports whether there is a document of a key that passes, by its bytes alone. One that does not pass costs the same questions and
// the same work as one that is not there: who asks cannot tell them apart by the time it takes.
func (b *Bucket[T]) Holds(ctx context.Context, key string, pass func(data []byte) bool) (bool, error) {
	if err := b.s.health.reachable(); err != nil {
		return false, fmt.Errorf("read %s of bucket %s: %w", key, b.name, err)
	}
	var e jetstream.KeyValueEntry
	silent, err := b.s.direct(ctx, "KV_"+b.name, func(ctx context.Context) (err error) {
		e, err = b.kv.Get(ctx, key)
		return err
	})
	err = classify(err)
	switch {
	case !silent && err == nil && pass(e.Value()):
		return true, nil
	case !silent && err != nil && !errors.Is(err, ErrNotFound):
		return false, fmt.Errorf("read %s of bucket %s: %w", key, b.name, err)
	case !silent && b.s.topo.Replicas <= 1:
		return false, nil
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
