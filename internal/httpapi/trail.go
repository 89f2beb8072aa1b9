package httpapi

import (
	"context"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// maxSubjects is up to how many callbacks are read by name; for more, all of the log is.
	maxSubjects = 64
	// firstBatches and moreBatches are how many batches are read at first, and then at most at a
	// time, while their bytes allow it.
	firstBatches = 32
	moreBatches  = 1_000
	// recordSize is about what a record takes besides its texts.
	recordSize = 512
)

// trail finds the attempts to deliver events of one order, or about one thing. Attempts come after
// their event, and mostly soon. So the log of attempts is read from each event on until its
// deliveries have ended.
type trail struct {
	a      *API
	c      caller
	events []store.Stored            // oldest first
	of     map[string]relay.Callback // those whose deliveries are wanted
	all    bool                      // all callbacks that there are: their batches are not chosen by name

	found map[deliveryOf][]relay.AttemptRecord
	ended map[deliveryOf]bool
	from  uint64 // position up to which the log of attempts has been read

	batches, bytes int // what was read
	kept           int // bytes of the records found
}

// trailOf returns the trail of events for one callback or, if that is nil, for all that the caller
// may see.
func (a *API) trailOf(c caller, events []store.Stored, only *relay.Callback) *trail {
	t := &trail{
		a: a, c: c, events: events, of: map[string]relay.Callback{},
		found: map[deliveryOf][]relay.AttemptRecord{}, ended: map[deliveryOf]bool{},
	}
	if only != nil {
		t.of[only.ID] = *only
		return t
	}
	a.eachCallback(c, func(cb relay.Callback) { t.of[cb.ID] = cb })
	t.all = len(t.of) > maxSubjects
	return t
}

// expected returns the callbacks that should have the delivery of an event.
func (t *trail) expected(ev store.Stored) (ids []string) {
	for id, cb := range t.of {
		if ev.Seq > cb.StartSeq && (len(t.of) == 1 || t.matches(cb, ev)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// matches reports whether an event is for a callback as that is configured now.
func (t *trail) matches(cb relay.Callback, ev store.Stored) bool {
	if kind, operational := relay.KindOf(ev.Type); operational && kind.NotToItself() && ev.Order == cb.ID {
		return false
	}
	client, known := t.a.c.Keys.Client(cb.Client)
	return known && cb.BelongsTo(client) && cb.Filter.Matches(ev.Traits()) && caller{client: client}.maySeeEvent(ev)
}

// read reads the log of attempts from a position on, or from the first event. It returns whether all
// deliveries have ended, or the log has. If not, the next request must go on from t.from.
func (t *trail) read(ctx context.Context, from uint64) (whole bool, err error) {
	if len(t.of) == 0 || len(t.events) == 0 {
		return true, nil
	}
	t.from = from
	begun := time.Now()
	defer func() { t.a.limits.charge(t.c.key.ID, t.batches) }()
	var reached time.Time
	for _, ev := range t.events {
		open := map[string]bool{}
		for _, id := range t.expected(ev) {
			open[id] = !t.ended[deliveryOf{id, ev.Seq}]
		}
		since := ev.Time.Add(-clockSlack)
		if t.from > 0 && (reached.IsZero() || !since.After(reached)) { // what follows has not been read yet
			since = time.Time{}
		}
		for most := t.most(firstBatches); t.opened(open, ev); most = t.most(4 * most) {
			if t.batches >= maxBatches || t.kept >= maxScannedBytes || time.Since(begun) > maxSearched {
				return false, nil
			}
			s, err := t.a.c.Store.Attempts.Onwards(ctx, t.from, since, t.named(), ev.Order, most)
			if err != nil {
				return false, err
			}
			t.batches, t.bytes = t.batches+s.Read, t.bytes+s.Bytes
			for _, b := range s.Batches {
				t.note(b)
			}
			if s.Read > 0 {
				t.from, since, reached = max(t.from, s.Last+1), time.Time{}, s.At
			}
			if !s.More {
				return true, nil
			}
		}
	}
	return true, nil
}

// most returns how many batches to read next, of those wanted.
func (t *trail) most(wanted int) int {
	if wanted = min(wanted, moreBatches); t.batches > 0 {
		wanted = min(wanted, max(maxScannedBytes*t.batches/max(t.bytes, 1), 1))
	}
	return wanted
}

// latestBatches is how many of the newest batches are looked through for replays of a delivery that
// has ended.
const latestBatches = 1_000

// readOne is read for one delivery. Replays may have delivered the event again since: the newest
// attempts are looked at as well. What lies between is from t.from on.
func (t *trail) readOne(ctx context.Context, from uint64) (whole bool, err error) {
	if whole, err = t.read(ctx, from); err != nil || !whole {
		return false, err
	}
	q := store.AttemptsQuery{Callbacks: map[string]string{}, Since: t.events[0].Time.Add(-clockSlack)}
	for id, cb := range t.of {
		q.Callbacks[id] = cb.Generation
	}
	var later []relay.AttemptBatch
	read := 0
	err = t.a.c.Store.Attempts.Newest(ctx, q, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
		if seq < t.from {
			return false
		}
		if read++; read > latestBatches {
			whole = false
			return false
		}
		b.Records = b.Of(func(rec relay.AttemptRecord) bool { return rec.Seq == t.events[0].Seq })
		if len(b.Records) > 0 {
			later = append(later, b)
		}
		return true
	})
	for _, b := range slices.Backward(later) {
		t.note(b)
	}
	return whole, err
}

// opened reports whether deliveries of an event may have more attempts.
func (t *trail) opened(open map[string]bool, ev store.Stored) bool {
	for id, is := range open {
		if is && !t.ended[deliveryOf{id, ev.Seq}] {
			return true
		}
	}
	return false
}

// named returns the callbacks whose batches are read, none for all.
func (t *trail) named() (ids []string) {
	if t.all {
		return nil
	}
	for id := range t.of {
		ids = append(ids, id)
	}
	return ids
}

// note takes the records that belong to the trail.
func (t *trail) note(b relay.AttemptBatch) {
	if cb, wanted := t.of[b.Callback]; !wanted || cb.Generation != b.Generation {
		return
	}
	for _, rec := range b.Records {
		for _, ev := range t.events {
			if ev.Seq == rec.Seq {
				of := deliveryOf{b.Callback, rec.Seq}
				t.found[of] = append(t.found[of], rec)
				t.kept += len(rec.Excerpt) + len(rec.Headers) + len(rec.Error) + recordSize
				t.ended[of] = t.ended[of] || rec.Closing != ""
			}
		}
	}
}

// deliveries returns the deliveries of one of the events, by callback. Those of which nothing was
// found are pending, if all has been read.
func (t *trail) deliveries(ev store.Stored, whole bool) []CallbackDelivery {
	list := []CallbackDelivery{}
	for _, id := range t.a.callbacks.Keys("") {
		cb, wanted := t.of[id]
		records := t.found[deliveryOf{id, ev.Seq}]
		if !wanted || len(records) == 0 && (!whole || ev.Seq <= cb.StartSeq || !t.matches(cb, ev)) {
			continue
		}
		d := t.a.delivery(cb, "", "", DeliveryStatusPending, records)
		list = append(list, CallbackDelivery{
			Callback: id, Status: d.Status, Reason: d.Reason, NextAttemptAt: d.NextAttemptAt, Attempts: d.Attempts,
		})
	}
	return list
}
