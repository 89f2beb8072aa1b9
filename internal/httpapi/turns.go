package httpapi

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
)

const (
	// bodiesOfKey and readsOfKey are how many bodies of one key are read and checked at once, and how many of its reads look at the
	// store. Further ones wait for turnWait.
	bodiesOfKey = 1
	readsOfKey  = 2
	turnWait    = 3 * time.Second

	// largeBody is the size, in bytes, from which a body takes one of largeBodies places while it is read: together they bound the memory
	// that bodies of all keys take. What is made of a body while it is checked is several times its size, so few are checked at once.
	largeBody   = 64 << 10
	largeBodies = 32
	checkedOnce = 4
)

// turns bounds how many requests of one key do the same thing at the same time.
type turns struct {
	each int

	mu   sync.Mutex
	keys map[string]*line
}

// line is where the requests of one key wait. It is forgotten with the last of them.
type line struct {
	places chan struct{}
	users  int // that have a place, or wait for one
}

func newTurns(each int) *turns { return &turns{each: each, keys: map[string]*line{}} }

// take waits until a request of the key may go on, or ctx ends; done gives the place back. The admin token's key is "" and has no bound.
func (t *turns) take(ctx context.Context, key string) (done func(), ok bool) {
	if key == "" {
		return func() {}, true
	}
	t.mu.Lock()
	l := t.keys[key]
	if l == nil {
		l = &line{places: make(chan struct{}, t.each)}
		t.keys[key] = l
	}
	l.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(t.keys, key)
		}
	}
	if !enter(ctx, l.places) {
		leave()
		return nil, false
	}
	return func() { <-l.places; leave() }, true
}

// soon is take for a request whose caller waits for the answer.
func (t *turns) soon(ctx context.Context, key string) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	done, ok := t.take(ctx, key)
	if !ok {
		return nil, &problem{kind: kindTooMany, detail: "The key has too many requests under way at once.", retryAfter: time.Second}
	}
	return done, nil
}

// enter takes one of the places, if one becomes free before ctx ends. Until then the request's connection may be closed for another.
func enter(ctx context.Context, places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
	}
	defer ingress.Pause(ctx)()
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
