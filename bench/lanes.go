package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/store"
)

const lanesEach = cursor.DefaultMaxLanes

// measureLanes stores what cursors cost when everything fails: all lanes of many callbacks, put for
// the first time and then again with one more failed attempt each, and their documents.
func (b *bench) measureLanes() {
	s, closing := b.open(filepath.Join(b.dir, "lanes"))
	defer closing()
	now := time.Now()
	policy := cursor.Policy{Concurrency: lanesEach, Window: 2 * lanesEach,
		Schedule: []time.Duration{time.Minute, time.Hour}}
	type standing struct {
		*cursor.Cursor
		id        string
		revision  uint64
		revisions map[string]uint64 // of lanes
	}
	all := make([]*standing, b.sizes.laneOwners)
	for i := range all {
		c := &standing{Cursor: cursor.New(policy), id: store.CallbackCursor(fmt.Sprintf("cb-%d", i)),
			revisions: map[string]uint64{}}
		for n := range lanesEach {
			c.Offer(cursor.Entry{Seq: uint64(n + 1), Order: fmt.Sprintf("5f0c1c2e-6a64-4a2c-9d55-%012x", n)})
		}
		all[i] = c
	}
	for _, round := range []string{"first", "again"} {
		for _, c := range all {
			for {
				batch, ok := c.Take(now, 1)
				if !ok {
					break
				}
				c.Fail(batch, now, cursor.Failure{Reason: "refused"})
			}
		}
		now = now.Add(2 * time.Minute)
		began, writes, bytes := time.Now(), 0, 0
		for _, c := range all {
			changes := c.Changes()
			var puts []store.Put[cursor.Lane]
			for _, l := range changes.Lanes {
				bytes += len(get(json.Marshal(l)))
				key := store.LaneKey(c.id, l.Order)
				puts = append(puts, store.Put[cursor.Lane]{Key: key, Value: l, Revision: c.revisions[key]})
			}
			for i, r := range s.Lanes.PutAll(b.ctx, puts) {
				must(r.Err)
				c.revisions[puts[i].Key] = r.Seq
			}
			writes += len(puts)
			if changes.Document != nil {
				bytes += len(get(json.Marshal(changes.Document)))
				r := s.Cursors.PutAll(b.ctx,
					[]store.Put[cursor.Document]{{Key: c.id, Value: *changes.Document, Revision: c.revision}})
				must(r[0].Err)
				c.revision = r[0].Seq
				writes++
			}
			c.Stored(changes)
		}
		took := time.Since(began)
		name := fmt.Sprintf("cursors_%d_callbacks_%d_lanes_%s", len(all), lanesEach, round)
		say(name+"_writes", "%d", writes)
		say(name+"_bytes", "%d", bytes)
		say(name+"_seconds", "%.2f", took.Seconds())
		say(name+"_writes_per_second", "%.0f", float64(writes)/took.Seconds())
	}
}
