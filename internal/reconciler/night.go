package reconciler

import (
	"context"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// lookAtNight is how often due runs are looked for at night, lookAtDay how often it is checked
	// whether the night has begun: clocks may be changed.
	lookAtNight = time.Minute
	lookAtDay   = time.Hour
)

// Night is the part of each day in which the orders of every connection are read again, from a time
// of day on. The zero value means never.
type Night struct {
	From     time.Duration // after midnight
	Length   time.Duration
	Location *time.Location
}

// began returns when the last night before now began.
func (n Night) began(now time.Time) time.Time {
	local := now.In(n.Location)
	at := func(days int) time.Time {
		return time.Date(local.Year(), local.Month(), local.Day()+days, 0, 0, int(n.From/time.Second), 0, n.Location)
	}
	if today := at(0); !today.After(now) {
		return today
	}
	return at(-1)
}

// Turn returns when a connection's turn is in the night that began at a time. The turns are spread
// evenly over the night except for its end, so that a check every lookAtNight finds each of them in
// time.
func (n Night) Turn(connection string, began time.Time) time.Time {
	h := fnv.New64a()
	h.Write([]byte(connection))
	sum := h.Sum64()
	sum ^= sum >> 32 // the low bits of short ids are not well mixed
	const parts = 1 << 20
	return began.Add(time.Duration(sum%parts) * (max(0, n.Length-lookAtNight) / parts))
}

// night begins the runs that are due, and returns how long to wait until the next check.
func (s *ownedShard) night(ctx context.Context) time.Duration {
	n, now := s.r.cfg.Night, s.r.cfg.now()
	if n.Length <= 0 {
		return lookAtDay
	}
	began := n.began(now)
	if !now.Before(began.Add(n.Length)) {
		return min(lookAtDay, max(time.Second, n.began(now.Add(24*time.Hour)).Sub(now)))
	}
	for _, c := range s.r.cfg.Connections.Connections(s.lease.Shard()) {
		if c.Paused || n.Turn(c.ID, began).After(now) {
			continue
		}
		l := s.line(c.ID)
		if doc := l.read(); doc.Generation == c.Generation &&
			(doc.Run != nil || doc.Last != nil && !doc.Last.StartedAt.Before(began)) {
			continue
		}
		w := relay.ReconcileWant{Causes: []relay.ReconcileCause{relay.CauseNightly}, Since: now.UTC()}
		if _, err := l.want(ctx, c.Generation, w, 0, now.UTC()); err != nil {
			s.log.Log(ctx, store.Level(err, slog.LevelWarn), "the nightly reading of open orders cannot begin yet",
				"connection", c.ID, "error", err)
			continue
		}
		s.begin(l)
	}
	return lookAtNight
}
