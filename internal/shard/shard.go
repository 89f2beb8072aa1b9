// Package shard says who works on what: connections and callbacks fall into 64 fixed shards, each owned by one replica at a
// time under a lease with a rising epoch. Every document an owner writes carries its epoch, so that a later owner's writes win.
package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Ownership is what a replica holds.
type Ownership struct {
	Replica string
	Nonce   string // random per start: only an equal nonce is "mine"
	Epoch   uint64 // above that of every owner before
}

// ErrTaken says that another replica claimed shards at the same moment.
var ErrTaken = errors.New("another relay claims the same shards")

// Claim takes all shards for the only replica there is. Whoever calls it knows that no other process works on the store: the
// embedded mode by the lock on its data directory.
func Claim(ctx context.Context, s *store.Store, replica string) (Ownership, error) {
	own := Ownership{Replica: replica, Nonce: relay.NewID()}
	puts := make([]store.Put[store.Owner], relay.Shards)
	for n := range puts {
		key := store.LeaseKey(n)
		old, revision, err := s.Owners.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return Ownership{}, fmt.Errorf("read the lease of shard %d: %w", n, err)
		}
		if old.Lease != nil {
			own.Epoch = max(own.Epoch, old.Lease.Epoch)
		}
		puts[n] = store.Put[store.Owner]{Key: key, Revision: revision}
	}
	own.Epoch++
	for n := range puts {
		puts[n].Value = store.Owner{Lease: &store.Lease{Replica: own.Replica, Nonce: own.Nonce, Epoch: own.Epoch}}
	}
	for n, r := range s.Owners.PutAll(ctx, puts) {
		if errors.Is(r.Err, store.ErrConflict) {
			return Ownership{}, fmt.Errorf("claim shard %d: %w: %w", n, ErrTaken, r.Err)
		}
		if r.Err != nil {
			return Ownership{}, fmt.Errorf("claim shard %d: %w", n, r.Err)
		}
	}
	return own, nil
}

// Owns reports whether a shard is this replica's.
func (o Ownership) Owns(shard int) bool { return shard >= 0 && shard < relay.Shards }
