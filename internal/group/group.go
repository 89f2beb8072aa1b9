// Package group runs the parts of a program that end together. A part that ends before its context has is a failure of
// the whole, and Wait returns only after all parts have ended, with their joined errors. Begin reading at Group.
package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group is a set of parts. Its zero value is an empty one.
type Group struct {
	// OnFailure, if not nil, is called with each failure as soon as the part has ended.
	OnFailure func(error)

	parts sync.WaitGroup
	once  sync.Once
	first chan error
	mu    sync.Mutex
	errs  []error
}

// Go runs a part until ctx ends. What names it in errors.
func (g *Group) Go(ctx context.Context, what string, run func(context.Context) error) {
	failed := g.failures()
	g.parts.Go(func() {
		err := run(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		err = fmt.Errorf("%s: %w", what, err)
		if g.OnFailure != nil {
			g.OnFailure(err)
		}
		select {
		case failed <- err: // for the reader of Failed
		default:
			g.mu.Lock()
			g.errs = append(g.errs, err)
			g.mu.Unlock()
		}
	})
}

// Failed returns a channel that delivers the first failure.
func (g *Group) Failed() <-chan error { return g.failures() }

func (g *Group) failures() chan error {
	g.once.Do(func() { g.first = make(chan error, 1) })
	return g.first
}

// Wait waits for all parts and returns the failures that Failed has not delivered.
func (g *Group) Wait() error {
	g.parts.Wait()
	select {
	case err := <-g.failures():
		g.errs = append(g.errs, err)
	default:
	}
	return errors.Join(g.errs...)
}
