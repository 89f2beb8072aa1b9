package audatex

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPollsAreHeldBackWhileWhatWasFetchedWaits: while notifications wait for their orders to be
// read, polls get no more than their guaranteed part of the rate. As soon as none waits, polls may
// use all of the rate again.
func TestPollsAreHeldBackWhileWhatWasFetchedWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(6000) // 95 a second flow at all times
		var behind atomic.Bool
		b.OnBacklog(behind.Load)
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		var turns [priorities]atomic.Int64
		ask := func(p Priority, connection string) {
			asking.Go(func() {
				for b.Wait(ctx, p, connection) == nil {
					turns[p].Add(1)
				}
			})
		}
		perSecond := func(p Priority) float64 {
			before := turns[p].Load()
			pass(time.Minute)
			return float64(turns[p].Load()-before) / 60
		}
		for i := range 500 {
			ask(PriorityPoll, strconv.Itoa(i))
		}
		pass(time.Minute)
		if n := perSecond(PriorityPoll); n < 94 || n > 96 {
			t.Errorf("%.1f polls a second; nothing else needs the budget", n)
		}
		behind.Store(true)
		pass(time.Second)
		if n := perSecond(PriorityPoll); n < 18.5 || n > 19.5 {
			t.Errorf("%.1f polls a second while what was fetched waits, want a fifth of 95", n)
		}
		start := time.Now()
		if err := b.Wait(ctx, PriorityResolve, "0"); err != nil || time.Since(start) > 20*time.Millisecond {
			t.Errorf("an order's turn comes after %s, %v", time.Since(start), err)
		}
		for i := range 100 { // the budget is what the orders wait for
			ask(PriorityResolve, strconv.Itoa(i))
		}
		pass(time.Second)
		polls, orders := turns[PriorityPoll].Load(), perSecond(PriorityResolve)
		if n := float64(turns[PriorityPoll].Load()-polls) / 60; n < 18.5 || n > 19.5 || orders < 75 || orders > 77 {
			t.Errorf("%.1f polls and %.1f orders a second, want one to four of 95", n, orders)
		}
		behind.Store(false)
		cancel()
		asking.Wait()

		ctx, cancel = context.WithCancel(t.Context())
		behind.Store(true)
		ask(PriorityPoll, "a")
		pass(time.Minute)
		behind.Store(false)
		pass(backlogAgain)
		if n := perSecond(PriorityPoll); n < 94 || n > 96 {
			t.Errorf("%.1f polls a second after the backlog is gone", n)
		}
		cancel()
		asking.Wait()
	})
}
