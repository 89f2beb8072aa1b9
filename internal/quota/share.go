// Package quota keeps this replica to its part of the vendor's allowance, which all replicas share
// without a message.
//
// In any 60 seconds all replicas together send at most the rate, also while replicas come and go;
// what the vendor asks by a 429 to one of them holds for all, also over restarts. Begin reading at
// Share.Run.
package quota

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
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
		s.Budget.Heed(asked)
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
	polls, refreshes := 0.0, 0.0
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
	if polls+refreshes > float64(rate) {
		log.Warn("polling alone needs more requests than RELAY_AUDATEX_RATE allows; polls will come late. Agree on a higher rate with the vendor, or raise RELAY_POLL_INTERVAL",
			"connections", len(connections), "polls_per_minute", polls, "refreshes_per_minute", refreshes, "rate", rate)
	}
}
