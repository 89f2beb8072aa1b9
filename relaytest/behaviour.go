package relaytest

import (
	"net/http"
	"time"
)

// Behaviour decides how a receiver responds to its n-th delivery (from 1): with a status, or 0 for
// never.
type Behaviour func(n int, r *http.Request) int

// Healthy takes everything at once.
func Healthy(int, *http.Request) int { return http.StatusNoContent }

// Always responds to everything with one status.
func Always(status int) Behaviour { return func(int, *http.Request) int { return status } }

// OneInTen responds 503 to every tenth delivery.
func OneInTen(n int, _ *http.Request) int {
	if n%10 == 0 {
		return http.StatusServiceUnavailable
	}
	return http.StatusNoContent
}

// Slow takes its time.
func Slow(d time.Duration) Behaviour {
	return func(_ int, r *http.Request) int {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return http.StatusNoContent
		case <-r.Context().Done():
			return 0
		}
	}
}

// Hanging never responds.
func Hanging(_ int, r *http.Request) int {
	<-r.Context().Done()
	return 0
}
