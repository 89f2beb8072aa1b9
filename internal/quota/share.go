// Package quota divides the vendor's allowance of requests among the replicas: each computes its own
// part from the records of the live ones, and they send one another no messages.
//
// In any 60 seconds all replicas together send at most the rate, also while replicas come and go;
// what the vendor asks by a 429 to one of them holds for all, also over restarts. Begin reading at
// Share.Run.
package quota

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// evenFraction is the part of the vendor's allowance that the replicas share evenly, so that
	// each of them can make a call when an operator asks for one; the rest goes by how many
	// connections each polls.
	evenFraction = 0.05
	// shareEvery is how often the shares are computed again. A replica has all that it needs for
	// it, so no message is sent.
	shareEvery = time.Second
	// settle is how much later one replica may see a change than another: the tick of each, and the
	// time that the members' records take.
	settle = 3 * shareEvery
)

// Share is this replica's share of the allowance.
type Share struct {
	Rate        int // requests a minute, of all replicas
	Budget      *audatex.Budget
	Connections func() (own, all int)                   // polled by this replica, and by all
	Members     func() (live int, asked relay.Throttle) // replicas, and what the vendor has asked of any of them
}

// Run keeps the budget at this replica's share, and at what the vendor has asked of any replica,
// until ctx ends. Before Run is called the budget must allow nothing.
func (s Share) Run(ctx context.Context) error {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	rate := float64(s.Rate)
	live, _ := s.Members()
	shares := delayedIncrease{{0, time.Now().Add(growthDelay(rate, live-1))}} // the others learn of this one
	for {
		own, all := s.Connections()
		live, asked := s.Members()
		s.Budget.ApplyThrottle(asked)
		share := shares.next(quotaShare(rate, own, all, live), time.Now().Add(growthDelay(rate, live)))
		s.Budget.Allow(share, burst(rate, share, live))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// quotaShare is this replica's part of the requests a minute to the vendor. The sum of all live
// replicas' parts is the rate. None gets less than one a minute while the rate allows it: no
// replica can keep to half a request.
func quotaShare(rate float64, own, all, replicas int) float64 {
	even := rate / float64(max(replicas, 1))
	if all == 0 {
		return even
	}
	least := max(evenFraction*even, min(1, even))
	return least + (rate-least*float64(max(replicas, 1)))*float64(own)/float64(all)
}

// burst is how many requests a replica may save up: one, and its part of what is then left of the
// vendor's spare requests.
func burst(rate, share float64, replicas int) int {
	return 1 + int(max(0, audatex.Spare*rate-float64(replicas))*share/rate)
}

// growthDelay is how long a replica's share must not grow after there were so many replicas. Each
// of them can have one request saved up. While that is no more than the spare, shares may move from
// one to another as soon as the former owner knows. With more replicas, what one sent right before
// it left counts as its own for a minute.
func growthDelay(rate float64, replicas int) time.Duration {
	if float64(replicas) > max(1, audatex.Spare*rate) {
		return settle + time.Minute
	}
	return settle
}

// delayedIncrease is a share that shrinks at once and grows late: it is the smallest of those that
// still count.
type delayedIncrease []counted

type counted struct {
	share float64
	until time.Time
}

func (d *delayedIncrease) next(share float64, until time.Time) float64 {
	now := time.Now()
	*d = append(slices.DeleteFunc(*d, func(c counted) bool {
		return c.until.Before(now) || c.share >= share && !c.until.After(until)
	}), counted{share, until})
	for _, c := range *d {
		share = min(share, c.share)
	}
	return share
}

// tokenRefresh is about how often the access token of a connection that is polled more often is
// refreshed.
const tokenRefresh = 24 * time.Minute

// WarnOfDemand warns when ordinary polls and the refreshes that they need are alone more requests a
// minute than the rate. Polls that come sooner use only what is left over.
func WarnOfDemand(ctx context.Context, s *store.Store, rate int, interval time.Duration, log *slog.Logger) {
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return // the poller meets the same trouble and reports it
	}
	polls, refreshes := Demand(connections, interval)
	if polls+refreshes > float64(rate) {
		log.Warn("polling alone needs more requests than RELAY_AUDATEX_RATE allows; polls will come late. "+
			"Agree on a higher rate with the vendor, or raise RELAY_POLL_INTERVAL",
			"connections", len(connections), "polls_per_minute", polls, "refreshes_per_minute", refreshes, "rate", rate)
	}
}

// Demand returns how many requests a minute ordinary polls of connections need, and the refreshes of their tokens.
func Demand(connections []store.Entry[relay.Connection], interval time.Duration) (polls, refreshes float64) {
	for _, e := range connections {
		every := interval
		if e.Value.PollIntervalSeconds > 0 {
			every = time.Duration(e.Value.PollIntervalSeconds * float64(time.Second))
		}
		if !e.Value.Paused {
			polls += float64(time.Minute) / float64(every)
			refreshes += float64(time.Minute) / float64(max(every, tokenRefresh))
		}
	}
	return polls, refreshes
}

// throttleAgain is the wait before what could not be stored is tried again.
const throttleAgain = time.Second

// Throttles keeps what the vendor asks by its 429s: the other replicas learn of it, and those that
// start later, this one after a crash among them, find it in the store.
type Throttles struct {
	store *store.Store
	share func(relay.Throttle)
	log   *slog.Logger
	wake  signal.Signal

	mu   sync.Mutex
	last relay.Throttle
}

// NewThrottles returns Throttles that share with the other replicas what is asked of this one.
func NewThrottles(s *store.Store, share func(relay.Throttle), log *slog.Logger) *Throttles {
	return &Throttles{store: s, share: share, log: log, wake: signal.New()}
}

// Restore makes a budget keep what was asked before this start, and keeps what is asked from now on.
func (t *Throttles) Restore(ctx context.Context, budget *audatex.Budget) {
	defer budget.OnThrottled(t.asked)
	asked, err := t.store.Throttle(ctx)
	if err != nil {
		t.log.WarnContext(ctx, "what the vendor asked before this start is not known", "error", err)
		return
	}
	budget.ApplyThrottle(asked)
	if left := time.Until(asked.Until); left > 0 {
		t.log.InfoContext(ctx, "the vendor has asked for silence before this start; it is kept", "until", asked.Until,
			"left", left.Round(time.Second).String())
	}
}

// asked takes in what the vendor asks now. It returns at once.
func (t *Throttles) asked(asked relay.Throttle) {
	t.share(asked)
	t.mu.Lock()
	t.last = asked
	t.mu.Unlock()
	t.wake.Set()
}

// Run stores what is asked until ctx ends.
func (t *Throttles) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
		}
		t.mu.Lock()
		asked := t.last
		t.mu.Unlock()
		if err := t.store.KeepThrottle(ctx, asked); err != nil && ctx.Err() == nil {
			t.log.Log(ctx, store.Level(err, slog.LevelWarn),
				"what the vendor asks could not be stored; it is tried again", "error", err)
			time.AfterFunc(throttleAgain, t.wake.Set)
		}
	}
}
