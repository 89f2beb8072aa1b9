package main

import (
	"context"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// evenly is the part of the vendor's allowance that the replicas share evenly, so that each of them can make a call when an
	// operator asks for one; the rest goes by how many connections each polls.
	evenly = 0.05
	// shareEvery is how often the shares are taken anew. A replica knows all that it needs for it, so no message is sent.
	shareEvery = time.Second
	// settle is by how much replicas may differ in when they see the same: the tick of each, and what the members' records take.
	settle = 3 * shareEvery
)

// allowance is this replica's part of the requests a minute to the vendor: of all live replicas' parts the sum is the rate. None gets less
// than one a minute as long as there are as many, for nobody can keep to half a request.
func allowance(rate float64, own, all, replicas int) float64 {
	even := rate / float64(max(replicas, 1))
	if all == 0 {
		return even
	}
	least := max(evenly*even, min(1, even))
	return least + (rate-least*float64(max(replicas, 1)))*float64(own)/float64(all)
}

// burst is how many requests a replica may save up: one, and its part of what is then left of the vendor's spare.
func burst(rate, part float64, replicas int) int {
	return 1 + int(max(0, audatex.Spare*rate-float64(replicas))*part/rate)
}

// rest is for how long a replica's part must not grow after these replicas were there. Each of them can have one request saved up. While
// that is no more than the spare, parts may go from one to another as soon as the former owner knows. With more replicas, what one sent
// right before it left counts as its own for a minute.
func rest(rate float64, replicas int) time.Duration {
	if float64(replicas) > max(1, audatex.Spare*rate) {
		return settle + time.Minute
	}
	return settle
}

// late is a part that shrinks at once and grows late: it is the smallest of those that still count.
type late []counts

type counts struct {
	part  float64
	until time.Time
}

func (l *late) next(part float64, until time.Time) float64 {
	now := time.Now()
	*l = append(slices.DeleteFunc(*l, func(c counts) bool {
		return c.until.Before(now) || c.part >= part && !c.until.After(until)
	}), counts{part, until})
	for _, c := range *l {
		part = min(part, c.part)
	}
	return part
}

// apportion keeps the vendor's budget at this replica's part of it, and at what the vendor has asked of any replica.
type apportion struct {
	rate        float64
	budget      *audatex.Budget
	connections func() (own, all int)                   // polled by this replica, and by all
	members     func() (live int, asked relay.Throttle) // replicas, and what the vendor has asked of any of them
}

// run keeps the share until ctx ends. Before it the budget is to allow nothing.
func (a apportion) run(ctx context.Context) error {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	live, _ := a.members()
	parts := late{{0, time.Now().Add(rest(a.rate, live-1))}} // the others come to know of this one
	for {
		own, all := a.connections()
		live, asked := a.members()
		a.budget.Heed(asked)
		part := parts.next(allowance(a.rate, own, all, live), time.Now().Add(rest(a.rate, live)))
		a.budget.Allow(part, burst(a.rate, part, live))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
