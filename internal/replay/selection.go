package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// countEvents is how many are read for counting.
	countEvents = 4096
	// selected is the part of a page that must be selected for the next one to be read whole.
	selected = 1.0 / 2
	// getMost is how many single events are read at a time, getAtOnce how many of them at once: so many bodies are in
	// memory beside those that are kept.
	getMost   = 64
	getAtOnce = 8
	// denseness is how many positions of the log one may read for each that is wanted, before the
	// wanted ones are read one by one; fewer than leastStretch always are.
	denseness    = 4
	leastStretch = 16
)

// selection is what a replay selects of the log, under the present configuration of its callback.
type selection struct {
	events events
	doc    *relay.Replay
	only   *positions // nil: every position from doc.From through doc.Through

	callback *delivery.Target // as it is configured
	narrowed *delivery.Target // the same with the replay's filter; nil if that leaves nothing
}

// events is what is read of the log of events.
type events interface {
	Get(ctx context.Context, seq uint64) (store.Stored, error)
	ScanWithin(ctx context.Context, from uint64, filters []string, most, bytes int) ([]store.Stored, bool, error)
	ScanHeads(ctx context.Context, from uint64, filters []string, most int) ([]store.Stored, bool, error)
}

// of returns the selection under another configuration of the callback.
func (s *selection) of(callback *delivery.Target) *selection {
	if s.callback == callback {
		return s
	}
	changed := *s
	changed.callback, changed.narrowed = callback, narrow(callback, s.doc.Filter.Filter)
	return &changed
}

// narrow returns a target that matches at most what a filter passes; nil if nothing can match. The
// result may match more than the callback does.
func narrow(callback *delivery.Target, by relay.Filter) *delivery.Target {
	of := callback.Callback
	var none [2]bool
	of.Filter.ChangedOnly = of.Filter.ChangedOnly || by.ChangedOnly
	if len(by.OrderStatuses) > 0 { // the callback's own are asked as well
		of.Filter.OrderStatuses = by.OrderStatuses
	}
	of.Filter.Sites, none[0] = intersection(of.Filter.Sites, by.Sites)
	of.Filter.Orders, none[1] = intersection(of.Filter.Orders, by.Orders)
	if len(by.Types) > 0 {
		of.Filter.Types = by.Types
	}
	if none[0] || none[1] || callback.Orphaned {
		return nil
	}
	return delivery.NewTarget(of, callback.Client)
}

// intersection returns what is in both lists, of which an empty one stands for everything; none
// means that nothing is.
func intersection(a, b []string) (both []string, none bool) {
	switch {
	case len(a) == 0:
		return b, false
	case len(b) == 0:
		return a, false
	}
	b = relay.Sorted(b)
	for _, s := range a {
		if relay.Among(b, s) {
			both = append(both, s)
		}
	}
	return both, len(both) == 0
}

// matches reports whether an event of the range must be replayed.
func (s *selection) matches(ev *delivery.Event) bool {
	return s.narrowed != nil && s.narrowed.Matches(ev) && s.callback.Matches(ev) &&
		(s.only == nil || s.only.has(ev.Seq))
}

// page is a part of what a selection has.
type page struct {
	entries []cursor.Entry
	events  []*delivery.Event // of the entries, those whose bodies are kept
	through uint64            // nothing else up to here is selected
	read    int               // events of the log that were read for it
	// of these, how many bodies were kept for looking at them, or read one by one, and their bytes
	bodies int
	bytes  int
}

func (p *page) add(ev *delivery.Event) {
	p.entries = append(p.entries, cursor.Entry{Seq: ev.Seq, Order: ev.Order})
	if len(ev.Body) > 0 {
		p.events = append(p.events, ev)
	}
}

// page reads what follows a position, at most so many events of the log. It keeps about so many bytes of their bodies;
// 0 is for what it takes to select them.
func (s *selection) page(ctx context.Context, after uint64, most, bytes int) (page, error) {
	after = max(after, s.doc.From-1)
	if s.narrowed == nil || after >= s.doc.Through {
		return page{through: s.doc.Through}, nil
	}
	from, through := after+1, s.doc.Through
	if s.only != nil {
		wanted := s.only.after(after, most)
		if len(wanted) == 0 {
			return page{through: s.doc.Through}, nil
		}
		stretch := dense(wanted)
		if len(stretch) == 0 {
			return s.single(ctx, wanted[:min(len(wanted), getMost)], bytes)
		}
		from, through = stretch[0], stretch[len(stretch)-1]
		if stretched := int(through - from + 1); bytes == 0 || stretched < most {
			most = stretched
		}
	}
	filters, none := s.narrowed.Subjects("")
	if none {
		return page{through: s.doc.Through}, nil
	}
	return s.scan(ctx, from, through, filters, most, bytes)
}

// dense returns the longest beginning of some positions that costs less to read in one go than one by
// one; none if there is no such beginning.
func dense(wanted []uint64) []uint64 {
	for n := len(wanted); n >= leastStretch; n /= 2 {
		if wanted[n-1]-wanted[0] < uint64(denseness*n) {
			return wanted[:n]
		}
	}
	return nil
}

// order returns the entries of one order from a position on, up to another one at most.
func (s *selection) order(ctx context.Context, order string, from, through uint64) (page, error) {
	through = min(through, s.doc.Through)
	if s.narrowed == nil || from > through {
		return page{through: through}, nil
	}
	filters, none := s.narrowed.Subjects(order)
	if none {
		return page{through: through}, nil
	}
	return s.scan(ctx, from, through, filters, 2*cursor.LaneEntries, 0)
}

// scan reads events of the log, and keeps about so many bytes of their bodies.
func (s *selection) scan(ctx context.Context, from, through uint64, filters []string, most, bytes int) (page, error) {
	heads, more, err := s.read(ctx, from, filters, most, bytes)
	if err != nil {
		return page{}, err
	}
	p := page{through: through, read: len(heads)}
	for _, head := range heads {
		if head.Seq > through {
			return p, nil
		}
		ev, err := delivery.EventOf(head), error(nil)
		if len(head.Body) == 0 {
			ev, err = delivery.EventOfHead(ctx, head, s.events)
		} else {
			p.bodies, p.bytes = p.bodies+1, p.bytes+len(head.Body)
		}
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return page{}, err
		case s.matches(&ev):
			p.add(&ev)
		}
	}
	switch {
	case more && len(heads) == 0: // all that was counted has left the log meanwhile
		return page{}, fmt.Errorf("%w: the log was cut while it was read", store.ErrUnavailable)
	case more:
		p.through = heads[len(heads)-1].Seq
	}
	return p, nil
}

func (s *selection) read(
	ctx context.Context, from uint64, filters []string, most, bytes int,
) ([]store.Stored, bool, error) {
	if bytes == 0 {
		return s.events.ScanHeads(ctx, from, filters, most)
	}
	return s.events.ScanWithin(ctx, from, filters, most, bytes)
}

// single reads events one by one, and keeps at most so many bytes of their bodies.
func (s *selection) single(ctx context.Context, wanted []uint64, bytes int) (page, error) {
	type found struct {
		event *delivery.Event
		bytes int
		err   error
	}
	all := make([]found, len(wanted))
	var kept atomic.Int64
	var reading sync.WaitGroup
	for first := range getAtOnce {
		reading.Go(func() {
			for i := first; i < len(wanted); i += getAtOnce {
				stored, err := s.events.Get(ctx, wanted[i])
				if all[i].bytes, all[i].err = len(stored.Body), err; err != nil {
					continue
				}
				if ev := delivery.EventOf(stored); s.matches(&ev) {
					if all[i].event = &ev; kept.Add(int64(len(ev.Body))) > int64(bytes) {
						ev.Body = nil
					}
				}
			}
		})
	}
	reading.Wait()
	p := page{through: wanted[len(wanted)-1], read: len(wanted)}
	for _, f := range all {
		switch {
		case errors.Is(f.err, store.ErrNotFound): // it has left the log
			continue
		case f.err != nil:
			return page{}, f.err
		}
		if p.bodies, p.bytes = p.bodies+1, p.bytes+f.bytes; f.event != nil {
			p.add(f.event)
		}
	}
	return p, nil
}

// count returns how many events are selected.
func (s *selection) count(ctx context.Context) (n int, err error) {
	for at := s.doc.From - 1; at < s.doc.Through; {
		p, err := s.page(ctx, at, countEvents, 0)
		if err != nil {
			return 0, err
		}
		n += len(p.entries)
		at = p.through
	}
	return n, nil
}

// selectedBy returns the positions to which a replay is limited beside its filter: those of its
// events, and those whose delivery has ended as it wants. Nil means all.
func selectedBy(
	ctx context.Context, attempts *store.Attempts, doc *relay.Replay, events *store.Events,
) (*positions, error) {
	var only *positions
	if len(doc.Positions) > 0 || len(doc.Filter.Events) > 0 {
		only = newPositions()
		for _, seq := range doc.Positions {
			only.set(seq, seq >= doc.From && seq <= doc.Through)
		}
	}
	if len(doc.Filter.Statuses) == 0 || doc.From > doc.Through {
		return only, nil
	}
	first, err := events.Get(ctx, doc.From)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	since := first.Time // no attempt is older than its event; if the first has left the log, all attempts count
	if !since.IsZero() {
		since = since.Add(-clockSlack)
	}
	ended := newPositions()
	err = attempts.Scan(ctx, doc.Callback, doc.CallbackGeneration, since, doc.AttemptsThrough,
		func(b relay.AttemptBatch) bool {
			for i := range b.Records {
				rec := &b.Records[i]
				if rec.Closing != "" && rec.Seq >= doc.From && rec.Seq <= doc.Through &&
					(only == nil || only.has(rec.Seq)) {
					ended.set(rec.Seq, slices.Contains(doc.Filter.Statuses, rec.Closing))
				}
			}
			return ctx.Err() == nil
		})
	return ended, errors.Join(err, ctx.Err())
}
