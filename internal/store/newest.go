package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/relay"
)

// AttemptsQuery selects batches of attempts.
type AttemptsQuery struct {
	// Callbacks are those whose batches are wanted, with their generations: only theirs are read. Nil
	// means all there are; then all of the log is read.
	Callbacks map[string]string
	// From is the position of the first batch that may be read, 0 for the newest.
	From uint64
	// Since and Until limit when the log took the batches; Until itself is excluded. Zero means no
	// limit.
	Since, Until time.Time
	// Replayed means that only those with attempts of replays are wanted, of Callbacks. They have a
	// chain of their own, so that no others are read but the last one of each callback: many with
	// one request. These count as well, and come without their records.
	Replayed bool
}

// Newest calls each with the batches that a query selects, newest first, until each returns false.
// A batch that cannot be read is left out.
func (a *Attempts) Newest(
	ctx context.Context, q AttemptsQuery, each func(seq uint64, at time.Time, b relay.AttemptBatch) bool,
) error {
	if !q.Until.IsZero() {
		later, _, err := a.s.scan(ctx, a.s.topo.Attempts(), 0, q.Until, nil, 1)
		if err != nil {
			return err
		}
		if len(later) > 0 {
			if later[0].Seq == 1 {
				return nil
			}
			if at := later[0].Seq - 1; q.From == 0 || at < q.From {
				q.From = at
			}
		}
	}
	look := func(seq uint64, at time.Time, b relay.AttemptBatch) (goes bool, previous uint64) {
		if at.Before(q.Since) {
			return false, 0
		}
		if generation, chosen := q.Callbacks[b.Callback]; chosen && generation != b.Generation {
			return true, 0
		}
		if previous = b.Previous; q.Replayed {
			previous = b.Replayed
		}
		return each(seq, at, b), previous
	}
	visit := func(m Message) (goes bool, previous uint64) {
		b, ok := a.batch(m)
		if !ok {
			return true, 0
		}
		return look(m.Seq, m.Time, b)
	}
	back := &backwards{s: a.s, stream: a.s.topo.Attempts()}
	if q.Callbacks == nil {
		return a.all(ctx, back, q.From, visit)
	}
	return a.merged(ctx, back, q, visit, look)
}

// batch returns what a message has; false if it cannot be read.
func (a *Attempts) batch(m Message) (relay.AttemptBatch, bool) {
	b, err := decodeAttempts(m.Data)
	return b, err == nil && m.Subject == a.s.topo.AttemptsSubject(b.Callback)
}

// all reads all of the log from a position downwards.
func (a *Attempts) all(ctx context.Context, back *backwards, from uint64, visit func(Message) (bool, uint64)) error {
	first, last, err := a.s.bounds(ctx, back.stream)
	if err != nil {
		return err
	}
	if from == 0 || from > last {
		from = last
	}
	for to := from; to >= first && to > 0; to = back.low - 1 {
		if err := back.read(ctx, to); err != nil {
			return err
		}
		for seq := to; seq >= back.low; seq-- {
			if m, ok := back.window[seq]; ok {
				if goes, _ := visit(m); !goes {
					return nil
				}
			}
		}
	}
	return nil
}

// merged follows the chains of callbacks: the newest of their next batches comes first.
func (a *Attempts) merged(
	ctx context.Context, back *backwards, q AttemptsQuery,
	visit func(Message) (bool, uint64), look func(uint64, time.Time, relay.AttemptBatch) (bool, uint64),
) error {
	if len(q.Callbacks) == 0 {
		return nil
	}
	next, without, err := a.ends(ctx, back.stream, q)
	if err != nil {
		return err
	}
	for len(next) > 0 { // positions of one batch of each callback, the newest at the end
		newest := next[len(next)-1]
		next = next[:len(next)-1]
		var goes bool
		var previous uint64
		if b, read := without[newest]; read {
			goes, previous = look(newest, b.at, b.AttemptBatch)
		} else {
			m, err := back.get(ctx, newest)
			if errors.Is(err, ErrNotFound) { // aged out
				continue
			}
			if err != nil {
				return err
			}
			goes, previous = visit(m)
		}
		if !goes {
			return nil
		}
		if previous > 0 && previous < newest {
			at, _ := slices.BinarySearch(next, previous)
			next = slices.Insert(next, at, previous)
		}
	}
	return nil
}

// lastBatch is the last batch of a callback, without its records.
type lastBatch struct {
	relay.AttemptBatch

	at time.Time
}

// ends returns the positions of the newest batches of a query's callbacks, the newest at the end. If replays are looked
// for, it also returns those of these batches that have none of their attempts: the server sends them anyhow.
func (a *Attempts) ends(
	ctx context.Context, stream string, q AttemptsQuery,
) (positions []uint64, without map[uint64]lastBatch, err error) {
	subjects := make([]string, 0, len(q.Callbacks))
	for callback := range q.Callbacks {
		subjects = append(subjects, a.s.topo.AttemptsSubject(callback))
	}
	upTo := q.From
	if upTo == 0 && len(subjects) > jsapi.MaxLastOf { // one end of the log for all requests
		if _, upTo, err = a.s.bounds(ctx, stream); err != nil || upTo == 0 {
			return nil, nil, err
		}
	}
	without = map[uint64]lastBatch{}
	take := func(seq uint64, subject string, at time.Time, data []byte) {
		positions = append(positions, seq)
		if !q.Replayed {
			return
		}
		if b, ok := a.batch(Message{Subject: subject, Data: data}); ok && !b.OfReplay() {
			b.Records = nil
			without[seq] = lastBatch{b, at}
		}
	}
	for some := range slices.Chunk(subjects, jsapi.MaxLastOf) {
		sent := time.Now()
		asking, cancel := context.WithTimeout(ctx, leaderTimeout)
		err := jsapi.LastOf(asking, a.s.js, stream, some, upTo, take)
		cancel()
		a.s.health.read(stream, sent, err)
		if err != nil {
			return nil, nil, classify(err)
		}
	}
	slices.Sort(positions)
	return positions, without, nil
}

// Hours calls each with the tallies of a callback's hours, newest first, until it returns false.
func (a *Attempts) Hours(
	ctx context.Context, callback, generation string, from uint64, each func(seq uint64, t relay.Tally) bool,
) error {
	for position := from; ; {
		goes := false
		err := a.Walk(ctx, callback, generation, position, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
			position, goes = b.Tally.Before, each(seq, b.Tally)
			return false
		})
		if err != nil || !goes || position == 0 {
			return err
		}
	}
}

// Stretch is a part of the log of attempts.
type Stretch struct {
	Batches []relay.AttemptBatch // those that were wanted, oldest first, with the order's records only
	// Last and At are the position of the last batch that was read, and when the log took it.
	Last  uint64
	At    time.Time
	Read  int // batches, and their bytes
	Bytes int
	More  bool // the log goes on
}

// Onwards reads up to most batches from a position on and, if since is set, from a time on. Of them
// it returns those that have records of an order, and keeps no others. Callbacks are those whose
// batches are read, at most a few dozen; none means all.
func (a *Attempts) Onwards(
	ctx context.Context, from uint64, since time.Time, callbacks []string, order string, most int,
) (Stretch, error) {
	subjects := each.Of(callbacks, a.s.topo.AttemptsSubject)
	mention := []byte(`"` + order + `"`)
	var s Stretch
	var all uint64
	more, err := a.s.scanEach(ctx, a.s.topo.Attempts(), wholeMessages, from, since, subjects,
		most, &all, func(m Message) {
			data, bad := unpack(m.Data)
			s.Last, s.At, s.Read, s.Bytes = m.Seq, m.Time, s.Read+1, s.Bytes+len(data)
			var b relay.AttemptBatch
			if bad != nil || m.Seq < from || !bytes.Contains(data, mention) { // the log's clock may have gone back
				return
			}
			if json.Unmarshal(data, &b) != nil || m.Subject != a.s.topo.AttemptsSubject(b.Callback) {
				return
			}
			if b.Records = b.Of(func(r relay.AttemptRecord) bool { return r.Order == order }); len(b.Records) > 0 {
				s.Batches = append(s.Batches, b)
			}
		})
	s.More = more && s.Read > 0
	return s, err
}
