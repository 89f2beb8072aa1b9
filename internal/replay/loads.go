package replay

import (
	"context"
	"sync"
)

// loadsAtOnce is how many replays are loaded at the same time, and loadsOfClient how many of them are
// of one client: each may read much of a log.
const (
	loadsAtOnce   = 4
	loadsOfClient = 2
)

// loads are the slots for replays that are being loaded.
type loads struct {
	all chan struct{}

	mu      sync.Mutex
	clients map[string]*clientLoads
}

// clientLoads are those of a client. They are removed with the last user.
type clientLoads struct {
	slots chan struct{}
	users int // with a slot, or waiting for one
}

func newLoads() *loads {
	return &loads{all: make(chan struct{}, loadsAtOnce), clients: map[string]*clientLoads{}}
}

// take waits until a replay of the client may be loaded. Done must be called when it is.
func (l *loads) take(ctx context.Context, client string) (done func(), err error) {
	of := l.join(client)
	select {
	case of.slots <- struct{}{}:
	case <-ctx.Done():
		l.leave(client, of)
		return nil, ctx.Err()
	}
	giveBack := func() { <-of.slots; l.leave(client, of) }
	select {
	case l.all <- struct{}{}:
		return func() { <-l.all; giveBack() }, nil
	case <-ctx.Done():
		giveBack()
		return nil, ctx.Err()
	}
}

func (l *loads) join(client string) *clientLoads {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.clients[client]
	if of == nil {
		of = &clientLoads{slots: make(chan struct{}, loadsOfClient)}
		l.clients[client] = of
	}
	of.users++
	return of
}

func (l *loads) leave(client string, of *clientLoads) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of.users--; of.users == 0 {
		delete(l.clients, client)
	}
}
