package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
)

// Front is the handler of the API's address from the start on, and knows whether requests should be
// sent here. Call Open before the first request, with Starting, and again with the API once it
// exists.
type Front struct {
	serving atomic.Pointer[http.Handler]

	mu    sync.Mutex
	phase phase
	waits string // what the start waits for
}

type phase int

const (
	phaseStarting phase = iota
	phaseRunning
	phaseDraining
)

// Open passes requests to a handler from now on.
func (f *Front) Open(h http.Handler) { f.serving.Store(&h) }

// ServeHTTP implements http.Handler.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*f.serving.Load()).ServeHTTP(w, r)
}

// Waiting notes what the start waits for.
func (f *Front) Waiting(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits = reason
}

// Started reports to load balancers that requests may be sent here.
func (f *Front) Started() { f.set(phaseRunning) }

// Drain reports to load balancers that no more requests should be sent here.
func (f *Front) Drain() { f.set(phaseDraining) }

func (f *Front) set(p phase) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase = p
}

// Ready returns why requests should not be sent here, nil if they may.
func (f *Front) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.phase {
	case phaseStarting:
		if f.waits != "" {
			return fmt.Errorf("starting: %s", f.waits)
		}
		return errors.New("starting")
	case phaseDraining:
		return errors.New("draining")
	case phaseRunning:
	}
	return nil
}
