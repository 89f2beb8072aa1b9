package httpapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// siftedPerRequest is how many messages of a log that are read for nothing cost a key as much as a request.
const siftedPerRequest = 100

// maxKnown bounds the limiters kept; beyond it all are forgotten, which gives each key one fresh burst.
const maxKnown = 10_000

// limits holds each key to its rate, so that one client cannot take the API from others.
// The admin token is not limited: whoever holds it can do anything anyway.
type limits struct {
	perSecond rate.Limit
	burst     int

	mu   sync.Mutex
	keys map[string]*rate.Limiter
}

func newLimits(perSecond float64, burst int) *limits {
	return &limits{perSecond: rate.Limit(perSecond), burst: burst, keys: map[string]*rate.Limiter{}}
}

// allow takes one request of a key's rate.
func (l *limits) allow(key string) bool {
	l.mu.Lock()
	limiter := l.keys[key]
	if limiter == nil {
		if len(l.keys) >= maxKnown {
			clear(l.keys)
		}
		limiter = rate.NewLimiter(l.perSecond, l.burst)
		l.keys[key] = limiter
	}
	l.mu.Unlock()
	return limiter.Allow()
}

// charge makes a key pay for messages that were read for it and were not its business: one request's worth for each siftedPerRequest.
// What it owes, its next requests wait for.
func (l *limits) charge(key string, sifted int) {
	if key == "" {
		return
	}
	l.mu.Lock()
	limiter := l.keys[key]
	l.mu.Unlock()
	if n := min(sifted/siftedPerRequest, l.burst); limiter != nil && n > 0 {
		limiter.ReserveN(time.Now(), n)
	}
}
