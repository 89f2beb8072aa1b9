package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// Holds reports whether there is a document of a key that passes, by its bytes alone. One that does
// not pass costs the same questions and the same work as one that is not there: who asks cannot
// tell them apart by the time it takes.
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
