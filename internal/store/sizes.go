package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

const (
	// measureEvery is how often the store is measured, and measureTimeout how long that may take.
	measureEvery   = 15 * time.Second
	measureTimeout = 10 * time.Second
	// The rate of growth is that of the last growthOver, or since the start; not before growthLeast.
	growthOver  = time.Hour
	growthEvery = time.Minute
	growthLeast = time.Minute
)

// Sizes knows how full the store is. Run measures it; what it shows is what was measured last, so that nobody who asks
// waits for a store that does not respond.
type Sizes struct {
	store *Store

	mu      sync.Mutex
	last    measured
	earlier []measured // of growthOver, oldest first
}

// measured is one measurement.
type measured struct {
	at      time.Time
	streams []streamSize
	disk    *diskSize // nil: it is not known, or without limit
}

type streamSize struct {
	name            string // of the log or bucket
	messages, bytes uint64
	limit           int64 // in bytes; 0: none
}

// diskSize is the disk of the data directory, or what the account may store on a cluster.
type diskSize struct{ total, free uint64 }

// NewSizes returns Sizes that know nothing until Run has measured.
func NewSizes(s *Store) *Sizes { return &Sizes{store: s} }

// Run measures the store until ctx ends.
func (z *Sizes) Run(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		// else what was measured before stays; the store's health has the reason
		if m, err := z.store.measure(ctx); err == nil {
			z.take(m)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (z *Sizes) take(m measured) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.last = m
	if n := len(z.earlier); n == 0 || m.at.Sub(z.earlier[n-1].at) >= growthEvery {
		z.earlier = append(z.earlier, m)
	}
	z.earlier = slices.DeleteFunc(z.earlier, func(old measured) bool { return m.at.Sub(old.at) > growthOver })
}

// measure asks the leader of each stream, one after the other.
func (s *Store) measure(ctx context.Context) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	m := measured{at: time.Now()}
	streams, holds := s.topo.StreamNames()
	for i, stream := range streams {
		var info jetstream.StreamInfo
		if err := jsapi.Call(ctx, s.js, "STREAM.INFO."+stream, struct{}{}, &info); err != nil {
			return measured{}, fmt.Errorf("measure %s: %w", stream, err)
		}
		m.streams = append(m.streams,
			streamSize{holds[i], info.State.Msgs, info.State.Bytes, max(info.Config.MaxBytes, 0)})
	}
	if s.room != nil {
		if free, total, err := s.room.free(); err == nil {
			m.disk = &diskSize{total, free}
		}
		return m, nil
	}
	account, err := s.js.AccountInfo(ctx)
	if err != nil {
		return measured{}, fmt.Errorf("measure the account: %w", err)
	}
	m.disk = accountSize(account, s.topo.Replicas)
	return m, nil
}

// AccountSize returns how much the NATS account stores, and how much it may; 0 if that has no limit.
func (s *Store) AccountSize(ctx context.Context) (used, limit uint64, err error) {
	account, err := s.js.AccountInfo(ctx)
	if err != nil {
		return 0, 0, err
	}
	if d := accountSize(account, s.topo.Replicas); d != nil {
		return d.total - d.free, d.total, nil
	}
	return 0, 0, nil
}

// accountSize returns what an account may store, nil if that has no limit. An account may have limits by replicas.
func accountSize(a *jetstream.AccountInfo, replicas int) *diskSize {
	tier, tiered := a.Tiers[fmt.Sprintf("R%d", replicas)]
	if !tiered {
		tier = a.Tier
	}
	if tier.Limits.MaxStore <= 0 {
		return nil
	}
	total := uint64(tier.Limits.MaxStore)
	return &diskSize{total, total - min(total, tier.Store)}
}

// fullIn returns when the first of all that can be full is full at the present rate; false if nothing grows.
func (z *Sizes) fullIn() (time.Duration, bool) {
	if len(z.earlier) == 0 {
		return 0, false
	}
	then, now := z.earlier[0], z.last
	passed := now.at.Sub(then.at)
	if passed < growthLeast {
		return 0, false
	}
	soonest, grows := time.Duration(0), false
	consider := func(left, grown float64) {
		if grown <= 0 {
			return
		}
		in := time.Duration(min(left/grown*passed.Seconds(), maxFullIn.Seconds()) * float64(time.Second))
		if !grows || in < soonest {
			soonest, grows = in, true
		}
	}
	if now.disk != nil && then.disk != nil {
		consider(float64(now.disk.free), float64(then.disk.free)-float64(now.disk.free))
	}
	for i, s := range now.streams {
		if s.limit > 0 && i < len(then.streams) {
			consider(float64(s.limit)-float64(s.bytes), float64(s.bytes)-float64(then.streams[i].bytes))
		}
	}
	return max(soonest, 0), grows
}

// maxFullIn bounds what is reported: nobody needs to know what will be in ten years.
const maxFullIn = 10 * 365 * 24 * time.Hour
