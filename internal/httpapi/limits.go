package httpapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// siftedPerRequest is how many log messages that were read in vain count as one request of a key.
const siftedPerRequest = 100

// maxKnown bounds the limiters. Beyond it all are forgotten, which gives each key a new burst.
const maxKnown = 10_000

// limits enforces each key's rate, so that one client cannot take the API from others. The admin
// token is not limited: its holder can do anything anyway.
type limits struct {
	perSecond rate.Limit
	burst     int

	mu   sync.Mutex
	keys map[string]*rate.Limiter
}

func newLimits(perSecond float64, burst int) *limits {
	return &limits{perSecond: rate.Limit(perSecond), burst: burst, keys: map[string]*rate.Limiter{}}
}

// allow takes one request from a key's rate.
func (l *limits) allow(key string) bool { return l.allowAt(key, float64(l.perSecond)) }

// allowAt is allow for a key whose rate is another than that of most.
func (l *limits) allowAt(key string, perSecond float64) bool {
	l.mu.Lock()
	limiter := l.keys[key]
	if limiter == nil {
		if len(l.keys) >= maxKnown {
			clear(l.keys)
		}
		limiter = rate.NewLimiter(l.perSecond, l.burst)
		l.keys[key] = limiter
	}
	if limiter.Limit() != rate.Limit(perSecond) {
		limiter.SetLimit(rate.Limit(perSecond))
	}
	l.mu.Unlock()
	return limiter.Allow()
}

// charge counts messages that were read for a key in vain: each siftedPerRequest of them as one
// request. The key's next requests wait for that.
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
