package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Owner is a document of relay_owners: a shard's lease or a live replica's record. Which of the two, its key says.
type Owner struct {
	Lease  *Lease
	Member *Member
}

// Lease says who owns a shard. It lies under LeaseKey and goes by itself when it is not renewed.
type Lease struct {
	Replica string `json:"replica"`
	Nonce   string `json:"nonce"` // random per start: only an equal nonce is "mine"
	// Epoch is a lower bound at acquisition: the owner's epoch is this or the revision of the acquiring write, whichever is higher. Every
	// renewal carries the epoch itself.
	Epoch uint64 `json:"epoch"`
}

// Member says that a replica is there. It lies under MemberKey and goes by itself when it is not renewed.
type Member struct {
	Replica string `json:"replica"`
	Nonce   string `json:"nonce"`
	Version int    `json:"version"` // of the formats that it reads and writes
	// Started is when it began to take shards; zero: it has only announced itself.
	Started time.Time `json:"started,omitzero"`
	// VendorBlockedUntil is until when the vendor asked it for quiet.
	VendorBlockedUntil time.Time `json:"vendorBlockedUntil,omitzero"`
}

const (
	leasePrefix  = "shard."
	memberPrefix = "member."
)

// LeaseKey is the key in relay_owners of a shard's lease.
func LeaseKey(shard int) string { return leasePrefix + strconv.Itoa(shard) }

// ShardOfLease answers the shard of a lease's key, false if the key is none.
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

// ownerCodec tells leases and members apart by their keys.
type ownerCodec struct{}

func (ownerCodec) encode(_ string, o Owner) ([]byte, error) {
	if o.Member != nil {
		return relay.Encode(o.Member)
	}
	return relay.Encode(o.Lease)
}

func (ownerCodec) decode(key string, b []byte) (o Owner, err error) {
	if IsMemberKey(key) {
		err = json.Unmarshal(b, &o.Member)
	} else {
		err = json.Unmarshal(b, &o.Lease)
	}
	if err == nil && o.Member == nil && o.Lease == nil {
		err = errors.New("it says nothing")
	}
	return o, err
}

// Present is what Current found under one key: Deleted with the marker's revision, or with 0 if there is nothing at all.
type Present[T any] struct {
	Entry[T]
	Err error
}

// Current reads documents of a bucket in one go, each at the stream's leader. Get may be answered by any node of a cluster, one that
// lags too; whoever reads back how a write ended must not take that for an answer.
func (b *Bucket[T]) Current(ctx context.Context, keys []string) []Present[T] {
	found := make([]Present[T], len(keys))
	var reading sync.WaitGroup
	for i, key := range keys {
		reading.Go(func() {
			found[i].Key = key
			if found[i].Err = b.current(ctx, &found[i].Entry); found[i].Err != nil {
				found[i].Err = fmt.Errorf("read %s of bucket %s at its leader: %w", key, b.name, found[i].Err)
			}
		})
	}
	reading.Wait()
	return found
}

func (b *Bucket[T]) current(ctx context.Context, e *Entry[T]) error {
	m, err := b.s.atLeader(ctx, "KV_"+b.name, messageRequest{Last: b.subject(e.Key)})
	if errors.Is(err, ErrNotFound) {
		e.Deleted = true
		return nil
	}
	if err != nil {
		return err
	}
	e.Revision = m.Seq
	if e.Deleted = isMarker(m.Header); e.Deleted {
		return nil
	}
	if e.Value, err = b.codec.decode(e.Key, m.Data); err != nil {
		return fmt.Errorf("decode revision %d: %w", e.Revision, err)
	}
	return nil
}
