package owners

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

const (
	// lookAtOnce is how many ids of one question are handled in parallel. lookAll is how long that
	// may take in total; the caller waits little longer.
	lookAtOnce = 16
	lookAll    = time.Second
)

// Answer returns a Handler for questions of one type.
func Answer[Q any](answer func(ctx context.Context, question Q) (any, error)) Handler {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var question Q
		if err := json.Unmarshal(raw, &question); err != nil {
			return nil, fmt.Errorf("the question cannot be read: %w", err)
		}
		return answer(ctx, question)
	}
}

// Look returns a Handler for questions about several ids, as Gather asks them: its result is what
// is known of each.
func Look[T any](look func(ctx context.Context, id string) (T, bool)) Handler {
	return Answer(func(ctx context.Context, ids []string) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, lookAll)
		defer cancel()
		var (
			mu      sync.Mutex
			looking sync.WaitGroup
			known   = make(map[string]T, len(ids))
			slots   = make(chan struct{}, lookAtOnce)
		)
		for _, id := range ids {
			slots <- struct{}{}
			looking.Go(func() {
				defer func() { <-slots }()
				if v, ok := look(ctx, id); ok {
					mu.Lock()
					defer mu.Unlock()
					known[id] = v
				}
			})
		}
		looking.Wait()
		return known, nil
	})
}
