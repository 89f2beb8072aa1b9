package audatex

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// maxStop bounds what a Retry-After can do: a mistaken or hostile one must not silence the relay for days.
	maxStop = time.Hour
	// defaultStop is the pause after a 429 that names no time.
	defaultStop = 30 * time.Second
)

// Spare is the part of an allowance that does not flow all the time: as much may be saved up and sent at once.
const Spare = 0.05

// Budget is the one allowance of requests to the vendor's host, shared by every connection and by the token endpoint. The
// vendor publishes no limit, so the default is the relay's own caution. Who waits for it gets turns by Priority.
type Budget struct {
	mu        sync.Mutex
	limited   bool
	perSecond float64 // flow into the bucket when no 429 lowers it
	bucket    bucket
	waiting   queue
	again     *time.Timer // looks whether the next request may go
	throttle  relay.Throttle
	throttled func(relay.Throttle)
	backlog   backlog
	circuits  map[string]*circuit // by host
	used      float64             // requests of about the last minute, at usedAt
	usedAt    time.Time
}

// NewBudget allows perMinute requests within any 60 seconds; 0 or less is no limit (a Retry-After still stops everything). It begins with
// nothing saved up: another process may have sent as much as it could just before.
func NewBudget(perMinute int) *Budget {
	b := &Budget{}
	if perMinute > 0 {
		burst := max(1, int(Spare*float64(perMinute)))
		b.limited, b.perSecond = true, inflow(float64(perMinute), burst)
		b.bucket = bucket{perSecond: b.perSecond, burst: float64(burst), at: time.Now()}
	}
	return b
}

// inflow is how many requests a second flow into a bucket of the size burst. What it lets flow is the allowance without Spare, so that
// replicas whose buckets hold no more than Spare together keep theirs in any 60 seconds, however often they divide it anew. And what one
// of them sends in 60 seconds is never more than its own part: a full bucket plus what flows in, short of its last token as the time is
// half-open, hence the +1. Half a request cannot be sent, so a part counts as the whole number below it; one below one request a minute
// holds in the long run only.
func inflow(perMinute float64, burst int) float64 {
	whole := perMinute
	if whole > 1 {
		whole = math.Floor(whole)
	}
	return max(0, min((1-Spare)*perMinute, whole-float64(burst)+1)) / 60
}

// Allow changes the allowance and how many requests may be saved up and then sent at once, at least one: several replicas divide one
// allowance among themselves, and who works for more connections gets more of it. Under an allowance of 0 requests wait for the next.
func (b *Budget) Allow(perMinute float64, burst int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, now := inflow(perMinute, burst), time.Now()
	if b.limited && limit == b.perSecond && float64(burst) == b.bucket.burst {
		return
	}
	b.limited, b.perSecond = true, limit
	b.bucket.change(now, b.slowed(now), float64(burst))
	b.serve(now)
}

// slowed is the flow that 429s leave. One request a minute always remains, if there was one. The lock is held.
func (b *Budget) slowed(now time.Time) float64 {
	return max(b.perSecond*b.throttle.PartAt(now), min(b.perSecond, 1./60))
}

// OnThrottled has f told of everything that a 429 asks for from now on: the other replicas must keep it too.
func (b *Budget) OnThrottled(f func(relay.Throttle)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throttled = f
}

// Heed keeps what the vendor has asked of another replica.
func (b *Budget) Heed(t relay.Throttle) {
	now := time.Now()
	if most := now.Add(maxStop); t.Until.After(most) { // clocks differ
		t.Until = most
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throttle = b.throttle.With(t, now)
	b.bucket.change(now, b.slowed(now), b.bucket.burst)
}

// Wait returns nil when one request of a connection may be sent, or the context's error. A request that waits while the
// vendor stops everything waits on.
func (b *Budget) Wait(ctx context.Context, p Priority, connection string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	now := time.Now()
	if b.waiting.length == 0 && !b.holds(p) && b.take(now) == 0 {
		b.mu.Unlock()
		return nil
	}
	w := b.waiting.add(p, connection)
	b.serve(now)
	b.mu.Unlock()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now = time.Now()
	if !b.waiting.remove(w) { // its turn came in the same moment: somebody else's
		b.bucket.giveBack()
		b.serve(now)
	}
	if left := b.throttle.Until.Sub(now); left > 0 {
		return fmt.Errorf("waiting %s for the vendor to take requests again: %w", left.Round(time.Second), context.Cause(ctx))
	}
	return fmt.Errorf("waiting for the vendor's request budget: %w", context.Cause(ctx))
}

// serve gives their turns to the waiting requests that may go now, and looks again when the next may. It is called
// whenever any of that has changed. The lock is held.
func (b *Budget) serve(now time.Time) {
	for b.waiting.length > 0 {
		wait := b.held(now)
		if wait == 0 {
			wait = b.take(now)
		}
		if wait > 0 {
			b.lookAgain(wait)
			return
		}
		next := b.waiting.next()
		if next.priority >= PriorityPoll {
			b.backlog.part.spend()
		}
		close(next.turn)
	}
}

// take takes one request out of the allowance, or returns how long there is none. The lock is held.
func (b *Budget) take(now time.Time) time.Duration {
	if left := b.throttle.Until.Sub(now); left > 0 {
		return left
	}
	if !b.limited {
		return 0
	}
	if flow := b.slowed(now); flow != b.bucket.perSecond { // a lowered rate recovers
		b.bucket.change(now, flow, b.bucket.burst)
	}
	wait := b.bucket.take(now)
	if wait == 0 {
		b.use(now, 1)
	}
	return wait
}

// use counts requests; those of a minute ago count for a third.
func (b *Budget) use(now time.Time, n float64) {
	b.used = b.used*math.Exp(-now.Sub(b.usedAt).Minutes()) + n
	b.usedAt = now
}

// shortAbove is the part of the rate that may be in use before the budget has nothing to spare.
const shortAbove = 0.7

// Short reports whether the budget has nothing to spare for what could as well be left out: requests wait, or most of the rate is in use.
func (b *Budget) Short() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.waiting.length > 0 || b.throttle.Until.After(now) {
		return true
	}
	b.use(now, 0)
	return b.limited && b.used > shortAbove*60*b.slowed(now)
}

func (b *Budget) lookAgain(wait time.Duration) {
	if b.again == nil {
		b.again = time.AfterFunc(wait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.serve(time.Now())
		})
		return
	}
	b.again.Reset(wait)
}

// BlockedUntil is the time before which nothing is sent because the vendor asked so; in the past or zero when requests
// flow.
func (b *Budget) BlockedUntil() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throttle.Until
}

// Observe takes note of an answer: a 429, and a 503 with a Retry-After, stop all requests for the time it names, at
// most an hour, 30 seconds if a 429 names none. A 429 also halves the rate, which then recovers within some minutes.
// Observe returns the time of the stop, 0 for every other answer.
func (b *Budget) Observe(status int, header http.Header) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	now := time.Now()
	stop, said := retryAfter(header, now)
	if status == http.StatusTooManyRequests {
		if !said {
			stop = defaultStop
		}
		stop = max(stop, time.Second) // "Retry-After: 0" is no invitation to a tight loop
	}
	stop = min(stop, maxStop)
	if stop <= 0 {
		return 0
	}
	if asked, tell := b.refused(now, stop, status == http.StatusTooManyRequests); tell != nil {
		tell(asked)
	}
	return stop
}

// refused takes in a stop, and returns who must be told of it; nil if it asks for nothing new.
func (b *Budget) refused(now time.Time, stop time.Duration, slower bool) (relay.Throttle, func(relay.Throttle)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.throttle
	// What is refused while everything is stopped was sent before: it is no word on the rate as it has become.
	if slower && !asked.Until.After(now) {
		asked = asked.Halved(now)
		b.bucket.empty(now)
	}
	if until := now.Add(stop); until.After(asked.Until) {
		asked.Until = until
	}
	if asked.Equal(b.throttle) {
		return asked, nil
	}
	b.throttle = asked
	b.bucket.change(now, b.slowed(now), b.bucket.burst)
	return asked, b.throttled
}

// figures returns how many requests of each priority wait, and which part of the rate is used.
func (b *Budget) figures() (waiting [priorities]int, part float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.waiting.levels {
		waiting[p] = b.waiting.levels[p].length
	}
	return waiting, b.throttle.PartAt(time.Now())
}

// retryAfter reads RFC 9110's Retry-After: whole seconds or an HTTP date. A date is the vendor's, whose clock may be off,
// so it is counted from the date of the answer if that has one.
func retryAfter(header http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(header.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	if secs, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(secs) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		if date, err := http.ParseTime(header.Get("Date")); err == nil {
			now = date
		}
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// sleep waits for d or the context.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
