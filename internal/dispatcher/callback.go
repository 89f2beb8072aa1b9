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

// phase is how far a callback's life on this replica has come.
type phase int

const (
	live      phase = iota
	disabling       // its end has been decided (410, failing too long) and is being stored; a resume takes it back
	retiring        // deleted, or made again under its id: what is under way ends, then its cursor is erased
	fenced          // a later owner has written its cursor: nothing is started or stored
)

// source is who reads the log for a callback.
type source int

const (
	readsItself  source = iota // behind: from the ring while that has what follows, else in filtered pages of the log
	readsShared                // the replica's shared reader
	readsCatchUp               // the reader for those that came to this replica a little behind, see catchup.go
)

// callback is one callback of a shard. The shard's core decides everything about it, and only the loop touches it.
// It has one reader of the log, cur with reading and storing; sending is what all readers of a callback share.
type callback struct {
	id, gen     string
	log         *slog.Logger
	target      *delivery.Target
	phase       phase
	endedAt     int // target.Callback.Resumed when its end was decided
	outstanding int // attempts, reads and rounds under way

	cur     *cursor.Cursor
	reading reading
	storing storing
	sending sending

	noticeAt time.Time       // something of its notices must be published then; zero: nothing
	troubled bool            // a success changes its notices
	wakeAt   time.Time       // it has something to do then although nothing else happens; zero: never
	ctx      context.Context // of its attempts and reads: ends with the loop's grace, or when the callback is retired
	cancel   context.CancelFunc
}

// reading is what a callback has read of the log and not yet settled, and who reads on.
type reading struct {
	source  source
	indexed *delivery.Target // under which it is in the index of its group
	version uint64           // of the target: a page that was asked for under an earlier one is thrown away

	atHand delivery.AtHand // events the cursor has accepted and that no lane has swallowed

	page        []*delivery.Event // read ahead, not offered yet
	pageThrough uint64            // once the page is offered, everything up to here has been
	pageAt      time.Time
	pageSize    int  // how many events the next page of the log may have; 0: not known yet
	fetching    bool // a page is being read
	refilling   bool // what lanes have waiting beyond what they list is being read
	blocked     bool // the next event was refused: there is no use in reading on before something has ended

	joinedAt, matched uint64 // since joinedAt the shared reader has offered matched events
	estimate          backlog.Estimate
}

// sending is what bounds the attempts of a callback, and what its receiver does.
type sending struct {
	place   *capacity.Place // its part of the attempts that may be under way on this replica
	waiting bool            // for a place
	retryAt time.Time       // nothing is taken or read before: the log could not be read
	test    capacity.Test
	warned  time.Time // when retries were last logged
	shown   shown     // by the metrics alone
}

// storing is what of a callback has to be stored, and what is known to be.
type storing struct {
	records []relay.AttemptRecord
	durable uint64          // everything up to here is settled or in a lane, and stored as such
	covered bool            // the stored document may leave it to the watermark where this callback is
	tooFar  bool            // its oldest entry holds the watermark up for too long: its document must say behind
	stored  storedState     // what the store has of it
	awaited []chan struct{} // closed once what there is to store now is stored
}

// halted reports whether nothing may be taken or read for a callback: paused, disabled or about to be, or orphaned.
func (c *core) halted(cb *callback) bool {
	of := &cb.target.Callback
	return cb.phase != live || c.ending.begun || cb.target.Orphaned || of.Paused || of.Disabled != nil
}

// window is how many events wait at hand: enough to keep every attempt slot busy while the next ones are read.
func window(cb relay.Callback) int { return 4*max(cb.Concurrency, 1) + 32 }

// policyOf returns the rules of a callback's cursor, the retry schedule among them.
func (c *Config) policyOf(cb relay.Callback) cursor.Policy {
	return cursor.Policy{
		Concurrency: delivery.Concurrency(cb), Window: window(cb), Schedule: c.Schedule, Jitter: c.Jitter,
		CircuitFailures: c.CircuitFailures, ProbeSchedule: c.ProbeSchedule, MaxLanes: c.MaxLanes,
	}
}

// wakeAt has a callback looked at again at a time, zero for never.
func (c *core) wakeAt(cb *callback, at time.Time) {
	cb.wakeAt, c.alarm = at, backoff.Earlier(c.alarm, at)
}

// setTarget takes a changed configuration.
func (c *core) setTarget(cb *callback, t *delivery.Target) {
	halted := c.halted(cb) // until now
	resumed := cb.target != nil && t.Callback.Resumed > cb.target.Callback.Resumed
	cb.target = t
	cb.cur.SetPolicy(c.conf.policyOf(t.Callback))
	s, r := &cb.sending, &cb.reading
	concurrency := delivery.Concurrency(t.Callback)
	s.place.Bound(concurrency, concurrency, t.Callback.RatePerSecond)
	// What was read ahead was chosen by the filter before.
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
		r.atHand.DropAll() // their turn may come in days; they are read again then
	} else if halted {
		cb.cur.ForgetFailingSince() // nothing could be sent
	}
	c.noteTrouble(cb)
}

// resumeAll makes all that waits of a callback due, slowly at first.
func (c *core) resumeAll(cb *callback) {
	cb.cur.ResumeAll(c.now)
	carried := cb.cur.Carried()
	carried.Resumed = cb.target.Callback.Resumed
	cb.cur.SetCarried(carried)
	cb.sending.retryAt = time.Time{}
	cb.sending.place.FullSpeed()
}
