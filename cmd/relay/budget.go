package main

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
)

const (
	// evenly is the part of the vendor's allowance that the replicas share evenly, so that each of them can make a call when an
	// operator asks for one; the rest goes by how many connections each polls.
	evenly = 0.05
	// shareEvery is how often the shares are taken anew. A replica knows all that it needs for it, so no message is sent.
	shareEvery = time.Second
)

// allowance is this replica's part of the requests a minute to the vendor: of all live replicas' parts the sum is the rate.
func allowance(rate float64, own, all, replicas int) float64 {
	even := rate / float64(max(replicas, 1))
	if all == 0 {
		return even
	}
	return evenly*even + (1-evenly)*rate*float64(own)/float64(all)
}

// apportion keeps the vendor's budget at this replica's part of it, and at rest while the vendor has asked any replica for rest.
type apportion struct {
	rate        int
	budget      *audatex.Budget
	connections func() (own, all int)                // polled by this replica, and by all
	members     func() (live int, blocked time.Time) // replicas, and until when the vendor wants to be left alone
}

// run keeps the share until ctx ends.
func (a apportion) run(ctx context.Context) error {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	last := float64(a.rate)
	for {
		own, all := a.connections()
		live, blocked := a.members()
		a.budget.Block(blocked)
		if now := allowance(float64(a.rate), own, all, live); now != last {
			last = now
			a.budget.Allow(now)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
