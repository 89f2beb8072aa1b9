package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// group runs parts that end together: the first that ends while its context has not is a failure of the program.
type group struct {
	parts sync.WaitGroup
	once  sync.Once
	first chan error
	mu    sync.Mutex
	errs  []error
}

// goUntil runs a part until ctx ends.
func (g *group) goUntil(ctx context.Context, what string, run func(context.Context) error) {
	failed := g.failed()
	g.parts.Go(func() {
		err := run(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		err = fmt.Errorf("%s: %w", what, err)
		select {
		case failed <- err: // the one who waits takes it
		default:
			g.mu.Lock()
			g.errs = append(g.errs, err)
			g.mu.Unlock()
		}
	})
}

// failed delivers the first failure.
func (g *group) failed() chan error {
	g.once.Do(func() { g.first = make(chan error, 1) })
	return g.first
}

// wait waits for all parts and answers the failures that nobody has taken.
func (g *group) wait() error {
	g.parts.Wait()
	select {
	case err := <-g.failed():
		g.errs = append(g.errs, err)
	default:
	}
	return errors.Join(g.errs...)
}
