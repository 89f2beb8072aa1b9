package audatex

import (
	"math"
	"time"
)

// never is longer than any wait.
const never = time.Duration(math.MaxInt64)

// bucket is a token bucket: requests flow in, and a burst of them can be saved up. It has no lock
// and no clock.
type bucket struct {
	perSecond float64
	burst     float64
	level     float64
	at        time.Time // the time of level
}

// fill adds what has flowed in since the last call.
func (b *bucket) fill(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.level = min(b.burst, b.level+passed.Seconds()*b.perSecond)
		b.at = now
	}
}

// change sets a new flow and burst from now on. What is saved up is kept as far as the new burst
// allows.
func (b *bucket) change(now time.Time, perSecond, burst float64) {
	b.fill(now)
	b.perSecond, b.burst, b.level = perSecond, burst, min(b.level, burst)
}

// take takes one request. If there is none, it returns the time until there is one.
func (b *bucket) take(now time.Time) time.Duration {
	wait := b.wait(now)
	if wait == 0 {
		b.spend()
	}
	return wait
}

// wait returns the time until there is a request.
func (b *bucket) wait(now time.Time) time.Duration {
	const rounding = 1e-9
	b.fill(now)
	if missing := 1 - b.level; missing > rounding {
		if b.perSecond <= 0 {
			return never
		}
		return time.Duration(min(math.Ceil(missing/b.perSecond*float64(time.Second)), float64(never/2)))
	}
	return 0
}

// spend takes one request, if there is one.
func (b *bucket) spend() { b.level = max(0, b.level-1) }

// giveBack returns a request that was taken and not sent.
func (b *bucket) giveBack() { b.level = min(b.burst, b.level+1) }

// empty removes what is saved up.
func (b *bucket) empty(now time.Time) {
	b.fill(now)
	b.level = 0
}
