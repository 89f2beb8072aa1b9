package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

var (
	// errSuperseded says that another owner writes this cursor under a higher epoch: ours has ended.
	errSuperseded = errors.New("another replica has taken the connection over")
	// errContested says that somebody has written what was read, since it was read: it has to be read again.
	errContested = errors.New("somebody else has written it meanwhile")
)

// contest is what to do about an earlier owner's write that is found in the place of one's own.
type contest int

const (
	// writeOver it: the shard is ours and adopted, what the earlier owner settled beyond ours is recognised by the log.
	writeOver contest = iota
	// readAgain: what is there was not known when ours was made of it.
	readAgain
)

// putAll stores documents of many stands in one go. Collect answers those of the i-th, stored takes the revision of each that is
// there. A stand that has failed before is left out.
func putAll[T any](ctx context.Context, stands []*stand, errs []error, rule contest, b *store.Bucket[T], collect func(i int, add func(store.Put[T])),
	stored func(*stand, T, uint64), epoch func(T) uint64,
) {
	var puts []store.Put[T]
	var whose []int
	for i := range stands {
		if errs[i] == nil {
			collect(i, func(p store.Put[T]) { puts, whose = append(puts, p), append(whose, i) })
		}
	}
	if len(puts) == 0 {
		return
	}
	for n, result := range b.PutAll(ctx, puts) {
		i, p := whose[n], puts[n]
		revision, err := result.Seq, result.Err
		if contested(err) && errs[i] == nil {
			revision, err = settle(ctx, stands[i].lease, rule, b, p, epoch)
		}
		if err == nil {
			stored(stands[i], p.Value, revision)
		} else if errs[i] == nil {
			errs[i] = fmt.Errorf("store %s: %w", p.Key, err)
		}
	}
}

// settle reads back what stands in a write's place: our own write is adopted, a later owner's ends ours, what else there is falls
// under the rule.
func settle[T any](ctx context.Context, lease *shard.Lease, rule contest, b *store.Bucket[T], p store.Put[T], epoch func(T) uint64) (uint64, error) {
	there, revision, err := b.Get(ctx, p.Key)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return 0, err
	case err == nil && same(there, p.Value):
		return revision, nil
	case err == nil && epoch(there) > epoch(p.Value):
		if lease != nil {
			lease.Superseded(epoch(there))
		}
		return 0, errSuperseded
	case rule == readAgain:
		return 0, errContested
	case err != nil:
		return b.Create(ctx, p.Key, p.Value)
	}
	return b.Update(ctx, p.Key, p.Value, revision)
}

// removeAll removes lanes of many stands in one go, each at the revision that is known: what a later owner has written stays.
func removeAll(ctx context.Context, stands []*stand, errs []error, orders func(i int) []string) {
	var removals []store.Removal
	var whose []int
	var which []string
	for i, s := range stands {
		if errs[i] != nil {
			continue
		}
		for _, order := range orders(i) {
			revision := s.lanes[order]
			if revision == 0 { // never stored, as far as is known: a write without an answer, at most
				_, at, err := s.store.Lanes.Get(ctx, s.laneKey(order))
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil {
					errs[i] = fmt.Errorf("look for lane %s: %w", s.laneKey(order), err)
					break
				}
				revision = at
			}
			removals, whose, which = append(removals, store.Removal{Key: s.laneKey(order), Revision: revision}), append(whose, i), append(which, order)
		}
	}
	if len(removals) == 0 {
		return
	}
	for n, result := range stands[0].store.Lanes.Remove(ctx, removals) {
		s, err := stands[whose[n]], result.Err
		if contested(err) {
			err = s.settleRemoval(ctx, removals[n])
		}
		if err == nil {
			delete(s.lanes, which[n])
		} else if errs[whose[n]] == nil {
			errs[whose[n]] = fmt.Errorf("remove lane %s: %w", removals[n].Key, err)
		}
	}
}

// settleRemoval looks at what a removal was refused for: gone is gone, an earlier owner's late write is removed, a later owner's ends ours.
func (s *stand) settleRemoval(ctx context.Context, r store.Removal) error {
	there, revision, err := s.store.Lanes.Get(ctx, r.Key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case there.Epoch > s.Carried().Epoch:
		if s.lease != nil {
			s.lease.Superseded(there.Epoch)
		}
		return errSuperseded
	}
	return s.store.Lanes.Remove(ctx, []store.Removal{{Key: r.Key, Revision: revision}})[0].Err
}

func contested(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnclear)
}

func same[T any](a, b T) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
