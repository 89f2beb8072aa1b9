package store

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// Owned is a document that the owner of a shard writes. It carries the epoch of the lease under
// which it was written: of two owners who both take the shard for theirs, the one with the higher
// epoch is right.
type Owned interface{ OwnerEpoch() uint64 }

// Outcome is how a write of an owned document ended.
type Outcome int

// The outcomes.
const (
	// Written: it is stored, by this write or by an earlier one whose response was lost. A removal:
	// it is not there.
	Written Outcome = iota
	// Changed: it was refused. Something else is there: an earlier owner's document, an older one
	// of our own, or none.
	Changed
	// Superseded: it was refused. A later owner has written the document, and the writer must stop.
	Superseded
	// Unclear: nobody knows, and it may still be stored. The next write over the same revision
	// finds out.
	Unclear
	// NotStored: it was not stored and will not be. The store is away or full, or the document is
	// too large for it.
	NotStored
)

// OwnedResult is how one write of PutOwned or RemoveOwned ended.
type OwnedResult[T Owned] struct {
	Outcome Outcome
	// Entry is what the store has now. If the outcome is Written it may be the revision alone.
	Entry Entry[T]
	Err   error // why the outcome is not Written
}

// OwnedRemoval is one removal of RemoveOwned, by an owner of an epoch. Revision 0: whether the
// document is there is not known.
type OwnedRemoval struct {
	Removal
	Epoch uint64
}

// PutOwned stores documents of a shard's owner in one go, each under the epoch that it carries.
// This is the one rule for such writes:
//
//   - Each is sent once, over the given revision; revision 0 creates it. (It is sent again only over
//     the marker of a removed document, and while the server cannot decide whether the condition
//     holds.)
//   - A refused write is read back at the stream's leader. If a document of a higher epoch is there,
//     the outcome is Superseded; if an equal one is there, Written; otherwise Changed.
//   - A write without a response is Unclear, and the next write's condition decides. With readUnclear
//     it is read back as well, for callers that cannot wait for a next write. It stays Unclear while
//     the leader has what was there before.
//
// It never overwrites what it has found, and it does not check whether the lease is valid. The
// caller decides what Changed means. A caller that continues takes the revision and writes the
// present state in the next round. A caller that derived the document from what it read must read
// again.
//
// Two kinds of documents have rules of their own, see Tokens and Lease.
func PutOwned[T Owned](ctx context.Context, b *Bucket[T], puts []Put[T], readUnclear bool) []OwnedResult[T] {
	results := make([]OwnedResult[T], len(puts))
	var doubtful []int
	for i, r := range b.PutAll(ctx, puts) {
		if results[i].take(r); results[i].Outcome == Changed || results[i].Outcome == Unclear && readUnclear {
			doubtful = append(doubtful, i)
		}
	}
	for n, there := range readBack(ctx, b, doubtful, func(i int) string { return puts[i].Key }) {
		r, p := &results[doubtful[n]], puts[doubtful[n]]
		before := there.Revision == p.Revision || there.Deleted && p.Revision == 0
		if r.Outcome != Unclear || !before || there.Err != nil {
			r.found(there, p.Value.OwnerEpoch())
		}
		if there.Err == nil && !there.Deleted && equal(there.Value, p.Value) {
			r.Outcome, r.Entry, r.Err = Written, there.Entry, nil
		}
	}
	return results
}

// RemoveOwned removes documents of a shard's owner in one go, by the same rule: what a later owner
// has written stays, and what is not there counts as removed. A removal without a response is not
// read back: removing again finds out.
func RemoveOwned[T Owned](ctx context.Context, b *Bucket[T], removals []OwnedRemoval) []OwnedResult[T] {
	results := make([]OwnedResult[T], len(removals))
	key := func(i int) string { return removals[i].Key }
	settle := func(i int, there Present[T]) {
		results[i].found(there, removals[i].Epoch)
		if there.Err == nil && there.Deleted {
			results[i] = OwnedResult[T]{Entry: there.Entry}
		}
	}
	var unknown, send, refused []int
	for i, r := range removals {
		if r.Revision == 0 {
			unknown = append(unknown, i)
		} else {
			send = append(send, i)
		}
	}
	removals = slices.Clone(removals)
	for n, there := range readBack(ctx, b, unknown, key) {
		i := unknown[n]
		if settle(i, there); results[i].Outcome == Changed { // it is there, and may go
			removals[i].Revision = there.Revision
			send = append(send, i)
		}
	}
	sent := each.Of(send, func(i int) Removal { return removals[i].Removal })
	for n, r := range b.Remove(ctx, sent) {
		i := send[n]
		if results[i].take(r); results[i].Outcome == Changed {
			refused = append(refused, i)
		}
	}
	for n, there := range readBack(ctx, b, refused, key) {
		settle(refused[n], there)
	}
	return results
}

// take records how the store responded to a write.
func (o *OwnedResult[T]) take(r Result) {
	*o = OwnedResult[T]{Err: r.Err}
	switch {
	case r.Err == nil:
		o.Entry.Revision = r.Seq
	case errors.Is(r.Err, ErrConflict):
		o.Outcome = Changed
	case errors.Is(r.Err, ErrUnclear) && !inFlight(r.Err):
		o.Outcome = Unclear
	default: // also what was refused to the end as other writes were in its way
		o.Outcome = NotStored
	}
}

// found records what is there in the place of a write under an epoch that was refused, or got no
// response.
func (o *OwnedResult[T]) found(there Present[T], epoch uint64) {
	switch {
	case there.Err == nil && !there.Deleted && there.Value.OwnerEpoch() > epoch:
		o.Outcome, o.Entry = Superseded, there.Entry
	case there.Err == nil:
		o.Outcome, o.Entry = Changed, there.Entry
	case o.Outcome != Unclear: // what is there cannot be read
		o.Outcome, o.Err = NotStored, errors.Join(o.Err, there.Err)
	default:
		o.Err = errors.Join(o.Err, there.Err)
	}
}

// readBackMost is how many documents are read back at a time.
const readBackMost = 64

// readBack reads documents at the leader. Once the leader does not respond, the rest are not asked
// for: after an outage there may be thousands.
func readBack[T Owned](ctx context.Context, b *Bucket[T], which []int, key func(int) string) []Present[T] {
	found := make([]Present[T], 0, len(which))
	keys := each.Of(which, key)
	for len(found) < len(keys) {
		found = append(found, b.Current(ctx, keys[len(found):min(len(found)+readBackMost, len(keys))])...)
		last := found[len(found)-1].Err
		for InTrouble(last) && len(found) < len(keys) {
			found = append(found, Present[T]{Err: last})
		}
	}
	return found
}

// equal reports whether two documents are written alike.
func equal[T any](a, b T) bool {
	x, errX := relay.Encode(a)
	y, errY := relay.Encode(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
