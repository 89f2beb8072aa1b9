package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Owner is a document of relay_owners: a shard's lease, a live replica's record, or what the vendor
// has asked of all replicas. The key shows which.
type Owner struct {
	Lease    *Lease
	Member   *Member
	Throttle *relay.Throttle
}

// Lease records who owns a shard. It is stored under LeaseKey and expires when it is not renewed.
//
// Its writes do not follow the rule of PutOwned, as epochs are made from them. Only the nonce shows
// whose lease it is.
type Lease struct {
	Replica string `json:"replica"`
	Nonce   string `json:"nonce"` // random per start: only an equal nonce is "mine"
	// Epoch is a lower bound at acquisition: the owner's epoch is this or the revision of the
	// acquiring write, whichever is higher. Every renewal carries the epoch itself.
	Epoch uint64 `json:"epoch"`
}

// Member records that a replica is there. It is stored under MemberKey and expires when it is not
// renewed.
type Member struct {
	Replica string `json:"replica"`
	Nonce   string `json:"nonce"`
	Version int    `json:"version"` // of the formats that it reads and writes
	// Started is when it began to take shards; zero: it has only announced itself.
	Started time.Time `json:"started,omitzero"`
	// Throttle is what the vendor has asked of it.
	Throttle relay.Throttle `json:"throttle,omitzero"`
}

const (
	leasePrefix  = "shard."
	memberPrefix = "member."
)

// LeaseKey is the key in relay_owners of a shard's lease.
func LeaseKey(shard int) string { return leasePrefix + strconv.Itoa(shard) }

// ShardOfLease returns the shard of a lease's key, false if the key is none.
func ShardOfLease(key string) (int, bool) {
	number, ok := strings.CutPrefix(key, leasePrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(number)
	return n, err == nil && n >= 0 && n < relay.Shards && LeaseKey(n) == key
}

// MemberKey is the key in relay_owners of a replica's record.
func MemberKey(replica, nonce string) string { return memberPrefix + replica + "-" + nonce }

// IsMemberKey reports whether a key of relay_owners is a replica's record.
func IsMemberKey(key string) bool { return strings.HasPrefix(key, memberPrefix) }

// ownerCodec distinguishes the documents by their keys.
type ownerCodec struct{}

func (ownerCodec) encode(_ string, o Owner) ([]byte, error) {
	switch {
	case o.Member != nil:
		return relay.Encode(o.Member)
	case o.Throttle != nil:
		return relay.Encode(o.Throttle)
	}
	return relay.Encode(o.Lease)
}

func (ownerCodec) decode(key string, b []byte) (o Owner, err error) {
	switch {
	case IsMemberKey(key):
		err = json.Unmarshal(b, &o.Member)
	case key == throttleKey:
		err = json.Unmarshal(b, &o.Throttle)
	default:
		err = json.Unmarshal(b, &o.Lease)
	}
	if err == nil && o.Member == nil && o.Lease == nil && o.Throttle == nil {
		err = errors.New("it says nothing")
	}
	return o, err
}

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
