package main

import (
	"errors"
	"sync"
)

// readiness is whether requests should be sent here.
type readiness struct {
	mu    sync.Mutex
	phase phase
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
		return errStarting
	case draining:
		return errDraining
	case running:
	}
	return nil
}
