package audatex

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// openFailures is how many requests to a host must fail in a row, without any response, before
	// it is only probed. openConnections is how many connections they must have been for: a failure
	// for one connection does not show that others fail.
	openFailures    = 5
	openConnections = 3
	// Probes of a host that does not respond are at least probeLeast apart; the interval grows up
	// to probeMost.
	probeLeast = 5 * time.Second
	probeMost  = time.Minute
)

// errHeld means that nothing was sent.
var errHeld = errors.New("the vendor's host does not answer, so it is only probed for now")

// ErrNotDialled is for a Config's DialContext: no connection was opened, for reasons of this
// machine and not of the vendor.
var ErrNotDialled = errors.New("no connection to the vendor was opened")

// NotAsked reports whether a request was not sent because the vendor's host does not respond to
// anybody. Nothing is known about the connection it was for.
func NotAsked(err error) bool { return errors.Is(err, errHeld) }

// circuit knows whether one of the vendor's hosts responds. If it does not, requests are refused at
// once, except for one probe at a time; the first response closes the circuit. Any response counts
// that is not 5xx: a host that refuses a token is well. The code of a consent is always exchanged,
// because it would expire before the next probe.
type circuit struct {
	host   string
	budget *Budget
	log    *slog.Logger

	mu       sync.Mutex
	state    circuitState
	failures int             // in a row
	failing  map[string]bool // the connections of the failures
	opened   time.Time
	closed   time.Time     // when it last closed
	next     time.Time     // when the next probe may go
	wait     time.Duration // the wait before next
	probes   int
	asked    time.Time // when a request last wanted to go
}

type circuitState int

const (
	circuitClosed circuitState = iota
	circuitOpen
	circuitProbing // open, and a probe is under way
)

// entry is the permission to send one request. It must be ended, by report, or by leave if nothing
// was sent.
type entry struct {
	c          *circuit
	connection string
	probe      bool
	ended      bool
}

// enter waits for a turn of the budget and asks the circuit. If it returns an error, which is an
// *Error, nothing may be sent.
func (c *circuit) enter(ctx context.Context, op Operation, p Priority, connection string) (*entry, error) {
	e := &entry{c: c, connection: connection}
	if !c.admits(p, nil) {
		return nil, held(op)
	}
	if err := c.budget.Wait(ctx, p, connection); err != nil {
		return nil, &Error{Operation: op, Outcome: Throttled, RetryAfter: max(0, time.Until(c.budget.BlockedUntil())),
			err: err}
	}
	if !c.admits(p, e) { // it has opened in the meantime
		c.budget.giveBack()
		return nil, held(op)
	}
	return e, nil
}

func held(op Operation) *Error { return &Error{Operation: op, Outcome: Unavailable, err: errHeld} }

// admits reports whether a request may go. With an entry it goes now, perhaps as the probe.
func (c *circuit) admits(p Priority, e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.asked = now
	switch {
	case c.state == circuitClosed, p == PriorityExchange:
		return true
	case c.state == circuitProbing, now.Before(c.next):
		return false
	}
	if e != nil {
		c.state, e.probe = circuitProbing, true
		c.probes++
	}
	return true
}

// reply is what a request shows about its host.
type reply int

const (
	replyNone    reply = iota // nothing: it was given up, or not sent
	replyWell                 // it responds
	replyFailure              // 5xx, a gateway's page, or no response
)

// replyOf judges a call by its error. ctx is the caller's, without the call's own timeout.
func replyOf(ctx context.Context, err error) reply {
	switch {
	case err == nil:
		return replyWell
	case ctx.Err() != nil || errors.Is(err, ErrNotDialled):
		return replyNone
	case OutcomeOf(err) == Unavailable:
		return replyFailure
	}
	return replyWell
}

// leave ends an entry with which nothing was sent. After report it does nothing.
func (e *entry) leave() { e.report(replyNone, nil) }

// report ends an entry with the result of the request. It returns whether the host is considered
// well.
func (e *entry) report(r reply, err error) bool {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.ended {
		return c.state == circuitClosed
	}
	e.ended = true
	now := time.Now()
	if e.probe && c.state == circuitProbing {
		c.state = circuitOpen
		if r == replyFailure {
			c.wait = min(2*c.wait, probeMost)
			c.probeAfter(now)
		}
	}
	switch r {
	case replyNone:
	case replyWell:
		c.failures = 0
		clear(c.failing)
		if c.state != circuitClosed {
			c.close(now)
		}
	case replyFailure:
		c.failures++
		if len(c.failing) < openConnections {
			c.failing[e.connection] = true
		}
		if c.state == circuitClosed && c.failures >= openFailures && len(c.failing) >= openConnections {
			c.open(now, err)
		}
	}
	return c.state == circuitClosed
}

// open begins to probe. The caller must hold mu.
func (c *circuit) open(now time.Time, err error) {
	if now.Sub(c.closed) < probeMost { // it is unstable
		c.wait = min(2*c.wait, probeMost)
	} else {
		c.wait = probeLeast
	}
	c.state, c.opened, c.probes = circuitOpen, now, 0
	c.probeAfter(now)
	c.log.Error("the vendor's host does not answer: requests are held, and it is probed until it does",
		slog.String("host", c.host), slog.Int("failures", c.failures), slog.Any("error", err))
}

// shown returns whether the metrics show the circuit as open. What is known of a host that was asked nothing for a
// while is out of date, unless it was well.
func (c *circuit) shown(now time.Time) (open, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	open = c.state != circuitClosed
	return open, !open || now.Sub(c.asked) < shownFor
}

func (c *circuit) probeAfter(now time.Time) {
	c.next = now.Add(time.Duration(float64(c.wait) * (0.8 + 0.4*rand.Float64())))
}

// close lets requests go again. The caller must hold mu.
func (c *circuit) close(now time.Time) {
	c.state, c.closed = circuitClosed, now
	c.log.Info("the vendor's host answers again", slog.String("host", c.host),
		slog.String("after", now.Sub(c.opened).Round(time.Millisecond).String()), slog.Int("probes", c.probes))
}

// circuit returns the circuit of a host. The metrics that show it and its log are those of the first caller.
func (b *Budget) circuit(host string, m *Metrics, log *slog.Logger) *circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[host]
	if c == nil {
		c = &circuit{host: host, budget: b, log: log, failing: map[string]bool{}}
		b.circuits[host] = c
		m.circuits.Store(c, true)
	}
	return c
}

// giveBack returns a turn that was not used.
func (b *Budget) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bucket.giveBack()
	b.serve(time.Now())
}
