package httpapi

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
)

const (
	// bodiesOfKey and readsOfKey are how many bodies of one key are read and checked at the same
	// time, and how many of its reads use the store. Further ones wait for up to turnWait.
	bodiesOfKey = 1
	readsOfKey  = 2
	turnWait    = 3 * time.Second

	// A body of at least largeBody bytes takes one of largeBodies places while it is read, which
	// limits the memory for the bodies of all keys. Checking a body takes several times its size,
	// so only checkedOnce bodies are checked at the same time.
	largeBody   = 64 << 10
	largeBodies = 32
	checkedOnce = 4
)

// turns limits how many requests of one key do the same thing at the same time.
type turns struct {
	each int

	mu   sync.Mutex
	keys map[string]*line
}

// line is where the requests of one key wait. It is removed with the last of them.
type line struct {
	places chan struct{}
	users  int // with a place, or waiting for one
}

func newTurns(each int) *turns { return &turns{each: each, keys: map[string]*line{}} }

// take waits until a request of the key may continue, or ctx ends. The caller must call done to
// return the place. An admin token has the key "" and no limit.
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

// soon is take with a time limit, for a request whose caller waits for the response.
func (t *turns) soon(ctx context.Context, key string) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	done, ok := t.take(ctx, key)
	if !ok {
		return nil, &problem{kind: kindTooMany, detail: "The key has too many requests under way at once.",
			retryAfter: time.Second}
	}
	return done, nil
}

// enter takes one of the places if one is free before ctx ends. While it waits, the request's
// connection may be closed for another.
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
