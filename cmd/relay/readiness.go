package main

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/audatex-relay/relay/internal/consent"
)

// readiness is whether requests should be sent here.
type readiness struct {
	mu    sync.Mutex
	phase phase
	waits string // what the start waits for
}

type phase int

const (
	starting phase = iota
	running
	draining
)

var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining")
)

func (r *readiness) started() { r.set(running) }
func (r *readiness) drain()   { r.set(draining) }

// waiting notes what the start waits for.
func (r *readiness) waiting(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = reason
}

func (r *readiness) set(p phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = p
}

func (r *readiness) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.phase {
	case starting:
		if r.waits != "" {
			return fmt.Errorf("%w: %s", errStarting, r.waits)
		}
		return errStarting
	case draining:
		return errDraining
	case running:
	}
	return nil
}

// front answers on the API's address: at first that the relay starts, and with the API once it is there.
type front struct{ now atomic.Pointer[http.Handler] }

func newFront(starting http.Handler) *front {
	f := &front{}
	f.open(starting)
	return f
}

func (f *front) open(h http.Handler) { f.now.Store(&h) }

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*f.now.Load()).ServeHTTP(w, r) }

// withPages puts the pages for people beside the API.
func withPages(pages, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if consent.Handles(r.URL.Path) {
			pages.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}
