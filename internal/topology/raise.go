package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Upgrades are rolled: relays of version N−1 and N run side by side until the last one of N−1 has
// gone. Until then nobody writes what N−1 cannot read. Then one of N raises the mark, in two steps:
//
//	the raiser                                   a relay of N−1 that starts just now
//	1. stores the mark with Raising = N          a. stores its member record
//	2. reads the members, no older than step 1   b. reads the mark, ends if Raising or Formats is above its own,
//	3. stores Formats = N over its own step 1       and stores the mark again as it was read
//
// Every write of the mark is conditional on the one that was read, and all of it lies in one
// stream, which has one order. If a comes before 1, the raiser sees the member in step 2 and takes
// its step 1 back. If 1 comes before a, it comes before b as well: b either reads it, or its write
// is refused and it reads again. There is no order in which both go on. A raiser that dies after
// step 1 keeps old relays from starting until another of N takes the step back or ends it, seconds
// later.

// raiseEvery is how often a relay checks whether the mark can be raised, or has changed without a
// signal.
const raiseEvery = 5 * time.Second

// memberPrefix starts the keys of the live relays' records in relay_owners.
const memberPrefix = "member."

// FormatsConfig is what OpenFormats needs.
type FormatsConfig struct {
	JS       jetstream.JetStream
	Topology Topology
	Log      *slog.Logger
}

// Versions is what this relay knows of the formats that are in use.
type Versions struct {
	c       FormatsConfig
	every   time.Duration // how often the mark is checked
	version int
	current atomic.Int64
	// restored is Mark.Restored as it was when this relay began: how its numbers go on follows from
	// that.
	restored time.Time
}

// OpenFormats reads the mark. It refuses like Apply, which comes before.
func OpenFormats(ctx context.Context, c FormatsConfig) (*Versions, error) {
	v := &Versions{c: c, every: raiseEvery, version: c.Topology.Version()}
	m, err := c.Topology.ReadMark(ctx, c.JS)
	if err == nil {
		v.restored = m.Restored
		err = v.adopt(m)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Current returns the version that must be written: every relay that runs now can read it. It rises
// at most once in a relay's life.
func (v *Versions) Current() int { return int(v.current.Load()) }

// Join refuses, like Apply, if this relay must not run. Call it after this relay's member record is
// stored and before anything is started or written for a shard. Then a relay that raises the mark
// has seen the member, or its step is seen here.
func (v *Versions) Join(ctx context.Context) error {
	for ctx.Err() == nil {
		m, err := v.c.Topology.ReadMark(ctx, v.c.JS)
		if err != nil {
			return err
		}
		if err := v.adopt(m); err != nil {
			return err
		}
		if _, err = v.c.Topology.WriteMark(ctx, v.c.JS, m); !errors.Is(err, jetstream.ErrKeyExists) {
			return err
		}
	}
	return ctx.Err()
}

// Run follows the mark and raises it when every live relay knows this relay's version. It looks at
// the mark when changed receives, and every few seconds. It ends with ErrRefused when this relay
// must not run any longer: another has raised the mark above its version, or a backup is being
// restored. It ends with nil when ctx ends.
func (v *Versions) Run(ctx context.Context, changed <-chan struct{}) error {
	tick := time.NewTicker(v.every)
	defer tick.Stop()
	failing := false // logged once: an outage of the store may last for hours
	for {
		err := v.turn(ctx)
		switch {
		case errors.Is(err, ErrRefused):
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			v.c.Log.WarnContext(ctx, "cannot look after the mark of the stored formats; trying again until it works",
				"error", err)
		case err == nil && failing:
			v.c.Log.InfoContext(ctx, "the mark of the stored formats is looked after again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}

// turn follows the mark, and moves it one step if this relay should move it.
func (v *Versions) turn(ctx context.Context) error {
	m, err := v.c.Topology.ReadMark(ctx, v.c.JS)
	if err != nil {
		return err
	}
	if err := v.adopt(m); err != nil || m.Formats >= v.version {
		return err
	}
	err = v.raise(ctx, m)
	if errors.Is(err, jetstream.ErrKeyExists) { // too late: the next turn reads what the other relay wrote
		return nil
	}
	return err
}

// raise writes the mark twice, as long as every relay knows the new version: the first one announces
// that it is being raised, so that no older relay starts unseen between the look and the write.
func (v *Versions) raise(ctx context.Context, m Mark) error {
	for {
		all, err := v.allKnow(ctx, m.revision)
		switch {
		case err != nil || !all && m.Raising == 0:
			return err
		case !all:
			m.Raising = 0
			_, err = v.c.Topology.WriteMark(ctx, v.c.JS, m)
			return err
		case m.Raising == v.version:
			m.Formats, m.Raising = v.version, 0
		default:
			m.Raising = v.version
		}
		if m, err = v.c.Topology.WriteMark(ctx, v.c.JS, m); err != nil {
			return err
		}
		if m.Raising == 0 {
			break
		}
	}
	v.c.Log.InfoContext(ctx, "every relay knows the new formats; they are written from now on", "formats", m.Formats)
	if err := v.adopt(m); err != nil {
		return err
	}
	return v.c.Topology.Apply(ctx, v.c.JS)
}

// adopt follows a mark that was read.
func (v *Versions) adopt(m Mark) error {
	if err := m.Refuse(v.version); err != nil {
		return err
	}
	if !m.Restored.Equal(v.restored) { // the restore did not see this relay, which was cut off or suspended
		return refused("a backup was restored at %s, after this relay had started: restart it: it must read from "+
			"which number events continue",
			m.Restored.UTC().Format(time.RFC3339))
	}
	v.current.Store(int64(m.Formats))
	return nil
}

// allKnow reports whether there are live relays and all of them know this relay's version. What it
// looks at is no older than the revision given.
func (v *Versions) allKnow(ctx context.Context, revision uint64) (bool, error) {
	members, err := v.c.Topology.members(ctx, v.c.JS, revision)
	if err != nil {
		return false, err
	}
	for _, version := range members {
		if version < v.version {
			return false, nil
		}
	}
	return len(members) > 0, nil
}

// errBehind reports that the server that responded has not yet stored what was stored before.
var errBehind = errors.New("the stream's leader is behind")

// members returns the version of every live relay, by key, as the leader knows them at the revision
// given or later.
func (t Topology) members(ctx context.Context, js jetstream.JetStream, revision uint64) (map[string]int, error) {
	info, there, err := t.info(ctx, js, "KV_"+t.Bucket(Owners), t.ownersSubject(memberPrefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list the live relays: %w", err)
	}
	if !there {
		return nil, nil
	}
	if info.State.LastSeq < revision {
		return nil, fmt.Errorf("list the live relays: %w: at %d, not %d", errBehind, info.State.LastSeq, revision)
	}
	members := map[string]int{}
	for subject := range info.State.Subjects {
		key := subject[len(t.ownersSubject("")):]
		m, err := t.leaderMessage(ctx, js, key)
		if err != nil {
			return nil, fmt.Errorf("read the record of a live relay: %w", err)
		}
		if m.Data == nil || Lapsed(m.Time, info.TimeStamp, LeaseTTL) { // gone meanwhile, or long ago
			continue
		}
		var record struct {
			Version int `json:"version"`
		}
		if err := json.Unmarshal(m.Data, &record); err != nil {
			record.Version = 0 // of a relay that we do not know: not one to raise the mark under
		}
		members[key] = record.Version
	}
	return members, nil
}

// LiveMembers returns the keys of the live relays' records.
func (t Topology) LiveMembers(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	members, err := t.members(ctx, js, 0)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(members)), nil
}
