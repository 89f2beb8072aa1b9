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

	"golang.org/x/time/rate"
)

const (
	// maxStop bounds what a Retry-After can do: a mistaken or hostile one must not silence the relay for days.
	maxStop = time.Hour
	// defaultStop is the pause after a 429 that names no time.
	defaultStop = 30 * time.Second
)

// Spare is the part of an allowance that does not flow all the time: as much may be saved up and sent at once.
const Spare = 0.05

// Budget is the one allowance of requests to the vendor's host, shared by every connection and by the token endpoint.
// The vendor documents no limit; the lowest tier a third party lists is 100 a minute.
type Budget struct {
	limiter *rate.Limiter
	turn    chan struct{} // held by the one request that waits for the limiter; the others wait for it in the order they came

	mu           sync.Mutex
	changed      chan struct{} // closed when the allowance changes
	blockedUntil time.Time
	blocked      func(until time.Time)
}

// NewBudget allows perMinute requests within any 60 seconds; 0 or less is no limit (a Retry-After still stops everything). It begins with
// nothing saved up: another process may have sent as much as it could just before.
func NewBudget(perMinute int) *Budget {
	b := &Budget{limiter: rate.NewLimiter(rate.Inf, 1), turn: make(chan struct{}, 1), changed: make(chan struct{})}
	if perMinute > 0 {
		burst := max(1, int(Spare*float64(perMinute)))
		b.limiter = rate.NewLimiter(inflow(float64(perMinute), burst), burst)
		b.limiter.AllowN(time.Now(), burst)
	}
	return b
}

// inflow is how many requests a second flow into a bucket of the size burst. What it lets flow is the allowance without Spare, so that
// replicas whose buckets hold no more than Spare together keep theirs in any 60 seconds, however often they divide it anew. And what one
// of them sends in 60 seconds is never more than its own part: a full bucket plus what flows in, short of its last token as the time is
// half-open, hence the +1. Half a request cannot be sent, so a part counts as the whole number below it; one below one request a minute
// holds in the long run only.
func inflow(perMinute float64, burst int) rate.Limit {
	whole := perMinute
	if whole > 1 {
		whole = math.Floor(whole)
	}
	return rate.Limit(max(0, min((1-Spare)*perMinute, whole-float64(burst)+1)) / 60)
}

// Allow changes the allowance and how many requests may be saved up and then sent at once, at least one: several replicas divide one
// allowance among themselves, and who works for more connections gets more of it. Under an allowance of 0 requests wait for the next.
func (b *Budget) Allow(perMinute float64, burst int) {
	limit := inflow(perMinute, burst)
	if limit == b.limiter.Limit() && burst == b.limiter.Burst() {
		return
	}
	now := time.Now()
	b.limiter.SetLimitAt(now, limit)
	b.limiter.SetBurstAt(now, burst)
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}

// OnBlocked has f told of every stop that an answer asks for from now on: the other replicas must keep it too.
func (b *Budget) OnBlocked(f func(until time.Time)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked = f
}

// Block stops all requests until a time that another replica was asked to wait for.
func (b *Budget) Block(until time.Time) {
	if most := time.Now().Add(maxStop); until.After(most) { // clocks differ
		until = most
	}
	b.block(until)
}

// block answers who is to be told, nil if the time is no further away than the one before.
func (b *Budget) block(until time.Time) func(time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !until.After(b.blockedUntil) {
		return nil
	}
	b.blockedUntil = until
	return b.blocked
}

// Wait returns nil when one request may be sent, or the context's error. A request that waits while the vendor stops
// everything waits on.
func (b *Budget) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting behind others for the vendor's request budget: %w", ctx.Err())
	}
	defer func() { <-b.turn }()
	if err := b.waitUnblocked(ctx); err != nil {
		return err
	}
	if err := b.take(ctx); err != nil {
		return err
	}
	return b.waitUnblocked(ctx) // a stop may have come in the meantime
}

// take waits for the limiter. Only one request at a time has a place there: a place is a time worked out from the allowance as it is, and
// a hundred places under a small one would still be kept, and filled, when it has grown.
func (b *Budget) take(ctx context.Context) error {
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		place := b.limiter.Reserve()
		timer := time.NewTimer(place.Delay())
		select {
		case <-timer.C:
			return nil
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		place.Cancel()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for the vendor's request budget: %w", err)
		}
	}
}

func (b *Budget) waitUnblocked(ctx context.Context) error {
	for {
		left := time.Until(b.BlockedUntil())
		if left <= 0 {
			return nil
		}
		if err := sleep(ctx, left); err != nil {
			return fmt.Errorf("waiting %s for the vendor to take requests again: %w", left.Round(time.Second), err)
		}
	}
}

// BlockedUntil is the time before which nothing is sent because the vendor asked so; in the past or zero when requests
// flow.
func (b *Budget) BlockedUntil() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockedUntil
}

// Observe takes note of an answer: a 429, and a 503 with a Retry-After, stop all requests for the time it names, at
// most an hour, 30 seconds if a 429 names none. It returns that time, 0 for every other answer.
func (b *Budget) Observe(status int, header http.Header) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	now := time.Now()
	stop, said := retryAfter(header.Get("Retry-After"), now)
	if status == http.StatusTooManyRequests {
		if !said {
			stop = defaultStop
		}
		stop = max(stop, time.Second) // "Retry-After: 0" is no invitation to a tight loop
	}
	stop = min(stop, maxStop)
	if stop > 0 {
		until := now.Add(stop)
		if tell := b.block(until); tell != nil {
			tell(until)
		}
	}
	return stop
}

// retryAfter reads RFC 9110's Retry-After: whole seconds or an HTTP date.
func retryAfter(v string, now time.Time) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if secs, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(secs) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
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
