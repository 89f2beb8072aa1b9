package cursorstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/gather"
	"github.com/audatex-relay/relay/internal/store"
)

// Store keeps the cursors of one kind.
type Store struct {
	kind   store.CursorKind
	store  *store.Store
	log    *slog.Logger
	shards *gather.Reader[int, map[string]*Stored] // by id
}

// New returns a Store of a kind of cursors.
func New(s *store.Store, kind store.CursorKind, log *slog.Logger) *Store {
	c := &Store{kind: kind, store: s, log: log}
	c.shards = gather.NewReader(c.loadShards)
	return c
}

// Stored is what is stored of one cursor. Once the cursor is made of it only the Handle is needed.
type Stored struct {
	ID         string
	Document   *cursor.Document // nil if there is none, or it cannot be read
	Unreadable error            // why it cannot be read
	Lanes      []cursor.Lane
	Handle     *Handle
}

// Handle holds the revisions at which a cursor is stored. Load makes it, Adopt and Flush keep it true.
type Handle struct {
	key      string            // of the document, and the first part of the lanes'
	revision uint64            // of the document; 0: there is none
	lanes    map[string]uint64 // revisions by order
}

func (s *Store) none(id string) *Stored {
	return &Stored{ID: id, Handle: &Handle{key: s.kind.Key(id), lanes: map[string]uint64{}}}
}

// Load reads all that is stored of the kind's cursors of a shard, by id: those of ids, stored or not, and any others
// there are. Shards that are loaded at the same time are read together, after all of them have been asked for. One
// shard is loaded by one caller at a time.
func (s *Store) Load(ctx context.Context, shard int, ids []string) (map[string]*Stored, error) {
	found, err := s.shards.Read(ctx, shard)
	if err != nil {
		return nil, fmt.Errorf("load cursors: %w", err)
	}
	for _, id := range ids {
		if found[id] == nil {
			found[id] = s.none(id)
		}
	}
	return found, nil
}

// loadShards reads what is stored of the cursors of some shards.
func (s *Store) loadShards(ctx context.Context, shards []int) (map[int]map[string]*Stored, error) {
	found, err := s.load(ctx, store.ShardPrefixes(shards, store.FewPrefixes, s.kind.OfShard, s.kind.Everywhere()))
	if err != nil {
		return nil, err
	}
	by := make(map[int]map[string]*Stored, len(shards))
	for _, shard := range shards {
		by[shard] = map[string]*Stored{}
	}
	for id, f := range found {
		if of := by[s.kind.Shard(id)]; of != nil {
			of[id] = f
		}
	}
	return by, nil
}

// LoadMany reads what is stored of many cursors, which may be of several shards, by looking through their shards.
func (s *Store) LoadMany(ctx context.Context, ids []string) (map[string]*Stored, error) {
	shards := map[int]bool{}
	for _, id := range ids {
		shards[s.kind.Shard(id)] = true
	}
	by, err := s.loadShards(ctx, slices.Collect(maps.Keys(shards)))
	if err != nil {
		return nil, fmt.Errorf("load cursors: %w", err)
	}
	found := make(map[string]*Stored, len(ids))
	for _, id := range ids {
		if found[id] = by[s.kind.Shard(id)][id]; found[id] == nil {
			found[id] = s.none(id)
		}
	}
	return found, nil
}

// LoadSome reads what is stored of a few cursors, without looking through those of their shards.
func (s *Store) LoadSome(ctx context.Context, ids []string) (map[string]*Stored, error) {
	found := make(map[string]*Stored, len(ids))
	prefixes := make([]string, len(ids))
	for i, id := range ids {
		f := s.none(id)
		found[id], prefixes[i] = f, f.Handle.key
		d, revision, err := s.store.Cursors.Get(ctx, f.Handle.key)
		switch {
		case err == nil:
			f.Document, f.Handle.revision = &d, revision
		case store.InTrouble(err):
			return nil, fmt.Errorf("load cursors: %w", err)
		case !errors.Is(err, store.ErrNotFound):
			f.Unreadable = err
		}
	}
	if err := s.loadLanes(ctx, prefixes, func(id string) *Stored { return found[id] }); err != nil {
		return nil, fmt.Errorf("load cursors: %w", err)
	}
	return found, nil
}

// load reads documents and then lanes: a lane is stored before the document that counts on it, so the lanes are all
// that the document names, and more at most.
func (s *Store) load(ctx context.Context, prefixes []string) (map[string]*Stored, error) {
	found := map[string]*Stored{}
	of := func(id string) *Stored {
		if found[id] == nil {
			found[id] = s.none(id)
		}
		return found[id]
	}
	documents, err := s.store.Cursors.AllOf(ctx, prefixes, func(key string, err error) {
		if id, ok := s.idOf(key); ok {
			of(id).Unreadable = err
		}
	})
	if err != nil {
		return nil, err
	}
	for i, d := range documents {
		if id, ok := s.idOf(d.Key); ok {
			of(id).Document, of(id).Handle.revision = &documents[i].Value, d.Revision
		}
	}
	return found, s.loadLanes(ctx, prefixes, of)
}

func (s *Store) loadLanes(ctx context.Context, prefixes []string, of func(id string) *Stored) error {
	lanes, err := s.store.Lanes.AllOf(ctx, prefixes, func(key string, err error) {
		s.log.Error("a lane cannot be read; what waits in it is lost to its reader", "key", key, "error", err)
	})
	for _, l := range lanes {
		if id, ok := s.idOf(l.Key); ok {
			f := of(id)
			f.Lanes = append(f.Lanes, l.Value)
			f.Handle.lanes[l.Value.Order] = l.Revision
		}
	}
	return err
}

// idOf returns whose document or lane a key is of; false for what is none of the relay's.
func (s *Store) idOf(key string) (string, bool) {
	_, id, _, ok := store.ParseCursorKey(key)
	if !ok {
		s.log.Error("a key among the cursors is none of the relay's; it is passed over", "key", key)
	}
	return id, ok
}

// Empty reports whether nothing is stored of the cursor.
func (f *Stored) Empty() bool { return f.Document == nil && f.Unreadable == nil && len(f.Lanes) == 0 }

// Epoch is the highest under which anything of it was written.
func (f *Stored) Epoch() (highest uint64) {
	if f.Document != nil {
		highest = f.Document.Epoch
	}
	for _, l := range f.Lanes {
		highest = max(highest, l.Epoch)
	}
	return highest
}

// Highest is the highest position of the log that it speaks of.
func (f *Stored) Highest() (at uint64) {
	if d := f.Document; d != nil {
		at = d.Position
		if n := len(d.Done); n > 0 {
			at = max(at, d.Done[n-1][1])
		}
		if n := len(d.Skipped); n > 0 {
			at = max(at, d.Skipped[n-1].Seq)
		}
	}
	for _, l := range f.Lanes {
		at = max(at, l.OpenFrom)
		if n := len(l.Entries); n > 0 {
			at = max(at, l.Entries[n-1])
		}
	}
	return at
}

// Restore returns the cursor as it is stored, or nil if nothing is stored of this generation. It fails if
// what is stored contradicts itself.
func (f *Stored) Restore(p cursor.Policy, generation string, now time.Time) (*cursor.Cursor, error) {
	if f.Unreadable != nil {
		return nil, fmt.Errorf("load cursor %s: %w", f.Handle.key, f.Unreadable)
	}
	if f.Document == nil || f.Document.Generation != generation {
		return nil, nil
	}
	c, err := cursor.Load(p, *f.Document, f.Lanes, now)
	if err != nil {
		return nil, fmt.Errorf("load cursor %s: %w", f.Handle.key, err)
	}
	return c, nil
}

// Begin returns a cursor that begins behind a position, whatever is stored. The lanes that are stored are
// removed with its first Changes.
func (f *Stored) Begin(p cursor.Policy, generation string, after uint64, now time.Time) *cursor.Cursor {
	d := cursor.New(p).Document()
	// above the epoch of every lane: none is taken
	d.Position, d.Generation, d.Adopted = after, generation, math.MaxUint64
	c, err := cursor.Load(p, d, f.Lanes, now)
	if err != nil { // two lanes of one order; the next owner's Load removes what stays now
		c = cursor.New(p)
		c.Advance(after)
	}
	c.SetCarried(cursor.Carried{Generation: generation})
	return c
}
