package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// throttleKey is the key in relay_owners of what the vendor has asked of the relays by its 429s.
// Each replica's record holds the same for that replica, and goes with it. This document stays for
// those that start later.
const throttleKey = "throttle"

// throttleTries bounds how often the document is contested by other replicas in a row.
const throttleTries = 8

// Throttle returns what the vendor has asked of the relays, as far as that was kept.
func (s *Store) Throttle(ctx context.Context) (relay.Throttle, error) {
	there, _, err := s.Owners.Get(ctx, throttleKey)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return relay.Throttle{}, fmt.Errorf("read what the vendor has asked by its 429s: %w", err)
	}
	if there.Throttle == nil {
		return relay.Throttle{}, nil
	}
	return *there.Throttle, nil
}

// KeepThrottle adds to it.
func (s *Store) KeepThrottle(ctx context.Context, asked relay.Throttle) error {
	var err error
	for range throttleTries {
		var there Owner
		var revision uint64
		if there, revision, err = s.Owners.Get(ctx, throttleKey); err != nil && !errors.Is(err, ErrNotFound) {
			break
		}
		next := asked
		if there.Throttle != nil {
			if next = there.Throttle.With(asked, time.Now()); next.Equal(*there.Throttle) {
				return nil
			}
		}
		if _, err = s.Owners.Save(ctx, throttleKey, Owner{Throttle: &next}, revision); !errors.Is(err, ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("keep what the vendor has asked by its 429s: %w", err)
	}
	return nil
}
