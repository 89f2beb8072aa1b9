package httpapi

import (
	"context"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
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
// deliveries have ended. Replays come at any time after that, and are found by the chain of their
// batches.
type trail struct {
	a      *API
	c      caller
	events []store.Stored            // oldest first
	of     map[string]relay.Callback // those whose deliveries are wanted
	all    bool                      // all callbacks that there are: their batches are not chosen by name

	passed map[deliveryOf]bool // the callback's cursor has the event behind it, as it was before the search
	found  map[deliveryOf][]relay.AttemptRecord
	ended  map[deliveryOf]bool
	at     trailPosition

	begun          time.Time
	reached        time.Time // when the log took the last batch that was read forwards
	batches, bytes int       // what was read
	vain           int       // batches that have no attempts of replays, read while these were looked for
	kept           int       // bytes of the records found
}

// trailPosition is where a search for attempts goes on. The zero value is the beginning.
type trailPosition struct {
	from  uint64 // up to here the log of attempts has been read forwards
	below uint64 // if set, that has ended, and replays are looked for from here on downwards, as far as from
}

// trailOf returns the trail of events for one callback or, if that is nil, for all that the caller
// may see.
func (a *API) trailOf(c caller, events []store.Stored, only *relay.Callback) *trail {
	t := &trail{
		a: a, c: c, events: events, of: map[string]relay.Callback{}, passed: map[deliveryOf]bool{},
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

// expected returns the callbacks that may have had the delivery of an event, each with the time up to
// which the log is read for it while it has no attempt; zero: up to the end. That is one whose filter
// or client has changed since: the event may have matched before.
func (t *trail) expected(ev store.Stored) map[string]time.Time {
	until := map[string]time.Time{}
	for id, cb := range t.of {
		changed := t.changed(cb)
		switch {
		case ev.Seq <= cb.StartSeq:
		case len(t.of) == 1 || t.matches(cb, ev):
			until[id] = time.Time{}
		case !changed.Before(ev.Time):
			until[id] = changed
		}
	}
	return until
}

// changed returns when the filter of a callback or the sites of its client were last changed, by any clock: events of
// before may have matched then.
func (t *trail) changed(cb relay.Callback) time.Time {
	client, _ := t.a.c.Keys.Client(cb.Client)
	return backoff.Later(cb.FilterChangedAt, client.SitesChangedAt).Add(clockSlack)
}

// matches reports whether an event is for a callback as that is configured now.
func (t *trail) matches(cb relay.Callback, ev store.Stored) bool {
	client, known := t.a.c.Keys.Client(cb.Client)
	return known && cb.BelongsTo(client) && isFor(cb, client, ev)
}

// isFor reports whether an event is for a callback of a client, as both are configured now. One about the
// callback itself may not be.
func isFor(cb relay.Callback, client relay.Client, ev store.Stored) bool {
	if kind, operational := relay.KindOf(ev.Type); operational && kind.NotToItself() && ev.Order == cb.ID {
		return false
	}
	return cb.Filter.Matches(ev.Traits()) && caller{client: client}.maySeeEvent(ev)
}

// search looks for the attempts from a position on. It returns whether that has found all that are
// left. If not, the next request must go on from t.at.
func (t *trail) search(ctx context.Context, at trailPosition) (whole bool, err error) {
	t.at, t.begun = at, time.Now()
	if len(t.of) == 0 || len(t.events) == 0 {
		return true, nil
	}
	defer func() { t.a.limits.charge(t.c.key.ID, t.batches+t.vain) }()
	if at == (trailPosition{}) { // only then can a delivery have no attempt
		if err := t.lookForPassed(ctx); err != nil {
			return false, err
		}
	}
	if at.below == 0 {
		whole, last, err := t.read(ctx)
		if err != nil || !whole || last {
			return whole, err
		}
	}
	return t.replays(ctx)
}

// read reads the log of attempts from a position on, or from the first event. It returns whether all
// deliveries have ended, or the log has, which is last.
func (t *trail) read(ctx context.Context) (whole, last bool, err error) {
	for _, ev := range t.events {
		open := t.expected(ev)
		since := ev.Time.Add(-clockSlack)
		if t.at.from > 0 && (t.reached.IsZero() || !since.After(t.reached)) { // what follows has not been read yet
			since = time.Time{}
		}
		for most := t.most(firstBatches); t.opened(open, ev); most = t.most(4 * most) {
			if t.spent() {
				return false, false, nil
			}
			s, err := t.a.c.Store.Attempts.Onwards(ctx, t.at.from, since, t.named(), ev.Order, most)
			if err != nil {
				return false, false, err
			}
			t.batches, t.bytes = t.batches+s.Read, t.bytes+s.Bytes
			for _, b := range s.Batches {
				t.note(b)
			}
			if s.Read > 0 {
				t.at.from, since, t.reached = max(t.at.from, s.Last+1), time.Time{}, s.At
			}
			if !s.More {
				return true, true, nil
			}
		}
	}
	return true, false, nil
}

// spent reports whether one request has read as much as it may.
func (t *trail) spent() bool {
	return t.batches >= maxBatches || t.kept >= maxScannedBytes || time.Since(t.begun) > maxSearched
}

// most returns how many batches to read next, of those wanted.
func (t *trail) most(wanted int) int {
	if wanted = min(wanted, moreBatches); t.batches > 0 {
		wanted = min(wanted, max(maxScannedBytes*t.batches/max(t.bytes, 1), 1))
	}
	return wanted
}

// replays looks for attempts of replays behind what was read forwards, newest first, and returns
// whether it has come down to there.
func (t *trail) replays(ctx context.Context) (whole bool, err error) {
	q := store.AttemptsQuery{
		Callbacks: map[string]string{}, From: t.at.below, Since: t.events[0].Time.Add(-clockSlack), Replayed: true,
	}
	for id, cb := range t.of {
		client, known := t.a.c.Keys.Client(cb.Client)
		if !t.all || known && slices.ContainsFunc(t.events, caller{client: client}.maySeeEvent) {
			q.Callbacks[id] = cb.Generation
		}
	}
	var newest []relay.AttemptBatch
	read := 0
	whole = true
	err = t.a.c.Store.Attempts.Newest(ctx, q, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
		if seq < t.at.from {
			return false
		}
		if len(b.Records) == 0 { // many are read with one request, on each page again: none ends at them
			t.vain++
			return true
		}
		if read > 0 && t.spent() { // but each request comes further down
			whole, t.at.below = false, seq
			return false
		}
		read, t.batches = read+1, t.batches+1
		b.Records = b.Of(func(rec relay.AttemptRecord) bool {
			return slices.ContainsFunc(t.events, func(ev store.Stored) bool { return ev.Seq == rec.Seq })
		})
		if len(b.Records) > 0 {
			newest = append(newest, b)
		}
		return true
	})
	for _, b := range slices.Backward(newest) {
		t.note(b)
	}
	return whole, err
}

// opened reports whether deliveries of an event may have more attempts.
func (t *trail) opened(expected map[string]time.Time, ev store.Stored) bool {
	for id, until := range expected {
		of := deliveryOf{id, ev.Seq}
		if !t.ended[of] && (until.IsZero() || len(t.found[of]) > 0 || t.reached.Before(until)) {
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

// untouched returns how the delivery of an event stands of which nothing was found, though all has been read.
func (t *trail) untouched(cb relay.Callback, ev store.Stored) (status DeliveryStatus, reason string) {
	if t.passed[deliveryOf{cb.ID, ev.Seq}] {
		return DeliveryStatusSkipped, passedReason
	}
	return DeliveryStatusPending, ""
}

// deliveries returns the deliveries of one of the events, by callback. Those of which nothing was
// found are untouched, if all has been read.
func (t *trail) deliveries(ev store.Stored, whole bool) []CallbackDelivery {
	list := []CallbackDelivery{}
	for _, id := range t.a.callbacks.Keys("") {
		cb, wanted := t.of[id]
		records := t.found[deliveryOf{id, ev.Seq}]
		if !wanted || len(records) == 0 && (!whole || ev.Seq <= cb.StartSeq || !t.matches(cb, ev)) {
			continue
		}
		d := t.a.delivery(cb, "", "", DeliveryStatusPending, records)
		if len(records) == 0 {
			d.Status, d.Reason = t.untouched(cb, ev)
		}
		list = append(list, CallbackDelivery{
			Callback: id, Status: d.Status, Reason: d.Reason, NextAttemptAt: d.NextAttemptAt, Attempts: d.Attempts,
		})
	}
	return list
}
