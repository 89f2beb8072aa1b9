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
	// maxStop bounds the effect of a Retry-After: a wrong or hostile one must not silence the relay
	// for days.
	maxStop = time.Hour
	// defaultStop is the pause after a 429 without a time.
	defaultStop = 30 * time.Second
)

// Spare is the part of an allowance that does not flow continuously: that much may be saved up and
// sent at once.
const Spare = 0.05

// Budget is the allowance of requests to the vendor's host, shared by all connections and the token
// endpoint. The vendor publishes no limit, so the default is the relay's own caution. Waiting
// requests get their turns by Priority.
type Budget struct {
	mu        sync.Mutex
	limited   bool
	perSecond float64 // the flow into the bucket if no 429 lowers it
	bucket    bucket
	waiting   queue
	again     *time.Timer // checks whether the next request may go
	throttle  relay.Throttle
	throttled func(relay.Throttle)
	backlog   backlog
	circuits  map[string]*circuit // by host
	used      float64             // requests of about the last minute, as of usedAt
	usedAt    time.Time
}

// NewBudget returns a Budget of perMinute requests within any 60 seconds; 0 or less means no limit
// (a Retry-After still stops everything). Nothing is saved up at first, because another process may
// have just used the allowance.
func NewBudget(perMinute int) *Budget {
	b := &Budget{circuits: map[string]*circuit{}}
	if perMinute > 0 {
		burst := max(1, int(Spare*float64(perMinute)))
		b.limited, b.perSecond = true, inflow(float64(perMinute), burst)
		b.bucket = bucket{perSecond: b.perSecond, burst: float64(burst), at: time.Now()}
	}
	return b
}

// inflow returns how many requests a second flow into a bucket of the size burst. What flows is the
// allowance without Spare, so that replicas whose buckets together hold no more than Spare keep the
// allowance in any 60 seconds, however often they divide it again. And one replica never sends more
// than its part within 60 seconds: that is a full bucket plus what flows in, without the last token
// because the interval is half-open, hence the +1. Half a request cannot be sent, so a part is
// rounded down; a part below one request a minute is kept only on average.
func inflow(perMinute float64, burst int) float64 {
	whole := perMinute
	if whole > 1 {
		whole = math.Floor(whole)
	}
	return max(0, min((1-Spare)*perMinute, whole-float64(burst)+1)) / 60
}

// Allow changes the allowance and the burst, which is at least one request: several replicas divide
// one allowance, and a replica with more connections gets more of it. With an allowance of 0,
// requests wait for the next change.
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

// slowed returns the flow after the effect of 429s. If there was a flow, at least one request a
// minute remains. The caller must hold mu.
func (b *Budget) slowed(now time.Time) float64 {
	return max(b.perSecond*b.throttle.PartAt(now), min(b.perSecond, 1./60))
}

// OnThrottled sets a function that is called with what each further 429 requires, because the other
// replicas must comply, too.
func (b *Budget) OnThrottled(f func(relay.Throttle)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throttled = f
}

// ApplyThrottle complies with what the vendor required from another replica.
func (b *Budget) ApplyThrottle(t relay.Throttle) {
	now := time.Now()
	if most := now.Add(maxStop); t.Until.After(most) { // clocks differ
		t.Until = most
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throttle = b.throttle.With(t, now)
	b.bucket.change(now, b.slowed(now), b.bucket.burst)
}

// Wait returns nil when one request of a connection may be sent, or the context's error. If the
// vendor stops everything, it keeps waiting.
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
	if !b.waiting.remove(w) { // its turn came at the same moment: pass it on
		b.bucket.giveBack()
		b.serve(now)
	}
	if left := b.throttle.Until.Sub(now); left > 0 {
		return fmt.Errorf("waiting %s for the vendor to take requests again: %w",
			left.Round(time.Second), context.Cause(ctx))
	}
	return fmt.Errorf("waiting for the vendor's request budget: %w", context.Cause(ctx))
}

// serve gives turns to the waiting requests that may go now, and schedules the next check. It must
// be called whenever any of that has changed. The caller must hold mu.
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

// take takes one request out of the allowance, or returns the time until there is one. The caller
// must hold mu.
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

// use counts n requests. Requests of a minute ago count for a third.
func (b *Budget) use(now time.Time, n float64) {
	b.used = b.used*math.Exp(-now.Sub(b.usedAt).Minutes()) + n
	b.usedAt = now
}

// shortAbove is the part of the rate above which the budget has nothing to spare.
const shortAbove = 0.7

// Short reports whether the budget has nothing to spare for optional requests: others wait, or most
// of the rate is in use.
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

// BlockedUntil returns the time until which the vendor has asked for no requests; it is zero or in
// the past if there is no such time.
func (b *Budget) BlockedUntil() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throttle.Until
}

// Observe handles the status of a response. A 429, and a 503 with a Retry-After, stop all requests
// for the given time, at most an hour; 30 seconds if a 429 has none. A 429 also halves the rate,
// which then recovers within some minutes. Observe returns the length of the stop, 0 for all other
// responses.
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
		stop = max(stop, time.Second) // "Retry-After: 0" must not cause a tight loop
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

// refused applies a stop. It returns what the other replicas must know and a function for that,
// nil if nothing is new.
func (b *Budget) refused(now time.Time, stop time.Duration, slower bool) (relay.Throttle, func(relay.Throttle)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.throttle
	// What is refused during a stop was sent before it, so it does not lower the rate again.
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

// waitingAt returns how many requests of a priority wait.
func (b *Budget) waitingAt(p Priority) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.levels[p].length
}

// ratePart returns which part of the rate is used.
func (b *Budget) ratePart() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throttle.PartAt(time.Now())
}

// usedPart returns which part of this replica's allowance was used in about the last minute.
func (b *Budget) usedPart() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limited || b.perSecond <= 0 {
		return 0
	}
	b.use(time.Now(), 0)
	return b.used / (60 * b.perSecond)
}

// retryAfter parses the header Retry-After (RFC 9110): whole seconds or an HTTP date. A date is the
// vendor's, whose clock may be wrong, so it is compared with the response's Date if there is one.
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
