// Package signal wakes a goroutine. Setting a Signal never blocks, and one that is set several times
// before it is received counts once. Begin reading at Signal.
package signal

// Signal is received by one goroutine. It must be made by New.
type Signal chan struct{}

// New returns a signal that is not set.
func New() Signal { return make(Signal, 1) }

// Set sets the signal until it is received.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
