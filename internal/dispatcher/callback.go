package dispatcher

import (
	"context"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/notice"
	"github.com/audatex-relay/relay/internal/relay"
)

// phase is whether a callback is delivered to, or how it is ending on this replica.
type phase int

const (
	live      phase = iota
	disabling       // it is being disabled (410, failing for too long) and this is being stored; a resume undoes it
	retiring        // deleted, or made again under its id: its cursor is erased once nothing of it is under way
	fenced          // a later owner has written its cursor: nothing is started or stored here any more
)

// source is the reader that reads the log for a callback.
type source int

const (
	readsItself  source = iota // it reads for itself, as it is behind: the ring if that reaches back so far, else the log
	readsShared                // the replica's shared reader
	readsCatchUp               // the reader for callbacks that catch up together, see catchup.go
)

// callback is one callback of a shard. The shard's core decides everything about it, and only the loop touches it. Its
// state has three parts: what it has read of the log, what may be sent, and what must be stored.
type callback struct {
	id, gen     string
	log         *slog.Logger
	target      *delivery.Target
	phase       phase
	endedAt     int // target.Callback.Resumed when disabling began
	outstanding int // tasks under way: attempts, reads and rounds

	cur     *cursor.Cursor
	reading reading
	storing storing
	sending sending

	noticeAt time.Time       // when one of its notices must be published; zero: none
	troubled bool            // a success changes its notices
	wakeAt   time.Time       // when it has something to do even if nothing else happens; zero: never
	ctx      context.Context // of its attempts and reads: ends with the loop's grace, or when the callback is retired
	cancel   context.CancelFunc
}

// reading is what a callback has read of the log and has not settled yet, and who reads on for it.
type reading struct {
	source       source
	memberTarget *delivery.Target // the target by whose sites its group knows it; nil: it is a member of no group
	version      uint64           // of the target: a page that was asked for under an earlier version is thrown away

	atHand delivery.AtHand // events that the cursor has accepted and that are not in a lane

	page        []*delivery.Event // read ahead, not offered yet
	pageThrough uint64            // the position up to which everything has been offered once the page has been
	pageAt      time.Time
	bodySize    int  // the average of the last page of the log; 0: there was none
	fetching    bool // a page is being read
	refilling   bool // events that wait behind the entries of lanes are being looked for
	blocked     bool // the cursor has refused the next event: reading on is useless before something has ended

	joinedAt, matched uint64 // since position joinedAt its group has offered it this many events
	estimate          backlog.Estimate
}

// sending holds which attempts a callback may make.
type sending struct {
	allowance  *capacity.Allowance // its slots, its rate, and what its receiver asks for
	awaitsSlot bool                // a slotGranted will come
	retryAt    time.Time           // nothing is taken or read before: see storeRetry and bodiesRetry
	test       capacity.Test
	warned     time.Time // when retries were last logged
	shown      shown     // for the metrics alone
}

// storing is what must be stored of a callback, and what is stored of it.
type storing struct {
	records       []relay.AttemptRecord
	storedThrough uint64      // everything up to here is settled or in a lane, and stored as that
	covered       bool        // whoever loads its document goes on from the watermark, if that is further
	holdsBack     bool        // it has kept the watermark back for too long: its document must be marked behind
	stored        storedState // what the store has of it
	waiters       []func()    // called once everything that there is to store now is stored
}

// halted reports whether nothing may be sent or read for a callback: it is paused, disabled, orphaned or ending.
func (c *core) halted(cb *callback) bool {
	of := &cb.target.Callback
	return cb.phase != live || c.ending.begun || cb.target.Orphaned || of.Paused || of.Disabled != nil
}

// window returns how many events of a callback may wait: enough to keep all its attempts busy while it reads on.
func window(cb relay.Callback) int { return 4*max(cb.Concurrency, 1) + 32 }

// policyOf returns the rules of a callback's cursor, the retry schedule among them.
func (c *Config) policyOf(cb relay.Callback) cursor.Policy {
	return cursor.Policy{
		Concurrency: delivery.Concurrency(cb), Window: window(cb), Schedule: c.Schedule, Jitter: c.Jitter,
		CircuitFailures: c.CircuitFailures, ProbeSchedule: c.ProbeSchedule, MaxLanes: c.MaxLanes,
	}
}

// wakeAt sets when a callback has something to do even if nothing else happens; zero: never.
func (c *core) wakeAt(cb *callback, at time.Time) {
	cb.wakeAt, c.alarm = at, backoff.Earlier(c.alarm, at)
}

// setTarget gives a callback a new configuration.
func (c *core) setTarget(cb *callback, t *delivery.Target) {
	wasHalted := c.halted(cb)
	resumed := cb.target != nil && t.Callback.Resumed > cb.target.Callback.Resumed
	cb.target = t
	cb.cur.SetPolicy(c.conf.policyOf(t.Callback))
	s, r := &cb.sending, &cb.reading
	concurrency := delivery.Concurrency(t.Callback)
	s.allowance.SetLimits(concurrency, concurrency, t.Callback.RatePerSecond)
	// The old filter has chosen what was read ahead.
	r.version++
	r.page, r.pageThrough, r.blocked = nil, 0, false
	if cb.phase == disabling && t.Callback.Resumed > cb.endedAt {
		cb.phase = live
	}
	if resumed {
		c.resumeAll(cb)
	}
	if d := t.Callback.Disabled; d != nil {
		c.note(cb, func(n *notice.Notices) { n.Disable(d.At, d.Reason, cb.cur.Health().FailingSince) })
	}
	if c.halted(cb) {
		r.atHand.DropAll() // they may have to wait for days, and are read again then
	} else if wasHalted {
		cb.cur.ForgetFailingSince() // the time in which nothing was sent is no time of failing
	}
	c.noteTrouble(cb)
}

// resumeAll makes everything that waits for a callback due. The cursor sends slowly at first.
func (c *core) resumeAll(cb *callback) {
	cb.cur.ResumeAll(c.now)
	carried := cb.cur.Carried()
	carried.Resumed = cb.target.Callback.Resumed
	cb.cur.SetCarried(carried)
	cb.sending.retryAt = time.Time{}
	cb.sending.allowance.FullSpeed()
}
