package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// An order takes its next step after one to three seconds: quick enough to see it whole, slow
// enough for each state to be read.
const (
	stepLeast = time.Second
	stepMost  = 3 * time.Second
)

// walker makes orders at the vendor's and moves them through their life.
type walker struct {
	vendor *sandbox.Sandbox
	sites  []site
	every  time.Duration
	dice   *rand.Rand

	made  int
	steps []step // by time
}

// step is when an order moves next.
type step struct {
	at    time.Time
	order string
}

func newWalker(vendor *sandbox.Sandbox, sites []site, perMinute int, seed uint64) *walker {
	return &walker{
		vendor: vendor, sites: sites, every: time.Minute / time.Duration(perMinute),
		//nolint:gosec // it decides which order moves, and must repeat with the seed
		dice: rand.New(rand.NewPCG(seed, 1)),
	}
}

// run walks until ctx ends. Every site gets an order at once, so that there is something to see.
func (w *walker) run(ctx context.Context) error {
	now := time.Now()
	for range w.sites {
		if err := w.create(now); err != nil {
			return err
		}
	}
	nextOrder := now.Add(w.every)
	for {
		next := nextOrder
		if len(w.steps) > 0 && w.steps[0].at.Before(next) {
			next = w.steps[0].at
		}
		if !backoff.Sleep(ctx, time.Until(next)) {
			return nil
		}
		now = time.Now()
		if !now.Before(nextOrder) {
			if err := w.create(now); err != nil {
				return err
			}
			nextOrder = nextOrder.Add(w.every)
		}
		for len(w.steps) > 0 && !now.Before(w.steps[0].at) {
			order := w.steps[0].order
			w.steps = w.steps[1:]
			if err := w.move(order, now); err != nil {
				return err
			}
		}
	}
}

func (w *walker) create(now time.Time) error {
	site := w.sites[w.made%len(w.sites)]
	w.made++
	o, err := w.vendor.CreateOrder(site.vendor, sandbox.OrderOptions{Reference: fmt.Sprintf("PO-%d", 1000+w.made)})
	if err != nil {
		return err
	}
	w.schedule(o.ID, now)
	return nil
}

// move takes an order to its next status; now and then only a price changes, or nothing does but a
// notification comes all the same.
func (w *walker) move(id string, now time.Time) error {
	var o sandbox.Order
	var err error
	switch n := w.dice.IntN(20); {
	case n == 0:
		err = w.vendor.Touch(id)
	case n < 4:
		o, err = w.vendor.ChangeOrder(id, sandbox.Change{})
	default:
		o, err = w.vendor.AdvanceOrder(id)
	}
	if err == nil && !o.Ended {
		w.schedule(id, now)
	}
	return err
}

func (w *walker) schedule(order string, now time.Time) {
	s := step{now.Add(stepLeast + time.Duration(w.dice.Int64N(int64(stepMost-stepLeast)))), order}
	i, _ := slices.BinarySearchFunc(w.steps, s, func(a, b step) int { return a.at.Compare(b.at) })
	w.steps = slices.Insert(w.steps, i, s)
}
