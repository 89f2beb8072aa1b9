package logreader

import (
	"context"
	"errors"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
)

// Pages reads the events that may be for one callback, from any position.
type Pages struct {
	Events    *store.Events
	Deliverer *delivery.Deliverer
}

// Page is a page of the log.
type Page struct {
	Events   []*delivery.Event
	Through  uint64 // up to here nothing else is for the callback
	First    uint64 // position of the log
	BodySize int    // the average of its events; that of the page before if it has none
}

// Read reads the page that follows pos, within the bounds of capacity.NextPage. BodySize is that of the page before, 0
// for the first.
func (p *Pages) Read(ctx context.Context, t *delivery.Target, pos uint64, bodySize int) (Page, error) {
	first, last, err := p.Events.Bounds(ctx)
	if err != nil {
		return Page{}, err
	}
	page := Page{First: first, Through: max(last, pos), BodySize: bodySize}
	filters, none := t.Subjects("")
	if none || last <= pos {
		return page, nil
	}
	most, within := capacity.NextPage(p.Deliverer.Memory, p.Deliverer.Bodies, bodySize)
	events, more, err := p.Events.ScanWithin(ctx, pos+1, filters, most, within)
	if err != nil {
		return Page{}, err
	}
	bytes := 0
	for i, s := range events {
		if i > 0 && len(s.Body) == 0 { // it was not kept, as bodies are larger than expected: the next page has it
			events, more = events[:i], true
			break
		}
		ev := delivery.EventOf(s)
		page.Events = append(page.Events, &ev)
		bytes += len(s.Body)
		p.Deliverer.Bodies.NoteSize(len(s.Body))
	}
	switch n := len(events); {
	case n == 0 && more:
		page.Through = pos // all of them have left the log meanwhile: read again
	case n > 0:
		page.BodySize = bytes / n
		if page.Through = max(page.Through, events[n-1].Seq); more {
			page.Through = events[n-1].Seq
		}
	}
	return page, nil
}

// Lane reads the positions of an order's events that wait and are not listed in its lane, and returns how far it has
// read.
func (p *Pages) Lane(
	ctx context.Context, t *delivery.Target, of cursor.Refill,
) (seqs []uint64, through uint64, err error) {
	filters, none := t.Subjects(of.Order)
	if none {
		return nil, of.Through, nil
	}
	heads, more, err := p.Events.ScanHeads(ctx, of.From, filters, cursor.LaneEntries+1)
	if err != nil {
		return nil, 0, err
	}
	for _, head := range heads {
		if head.Seq > of.Through {
			break
		}
		switch ev, err := delivery.EventOfHead(ctx, head, p.Events); {
		case errors.Is(err, store.ErrNotFound): // it has left the log meanwhile
		case err != nil:
			return nil, 0, err
		case t.Matches(&ev):
			seqs = append(seqs, head.Seq)
		}
	}
	if through = of.Through; more && len(heads) > 0 {
		through = min(through, heads[len(heads)-1].Seq)
	}
	return seqs, through, nil
}

// Bounds returns the log's first and last position. Highest is the highest position that any cursor has.
func (p *Pages) Bounds(ctx context.Context, highest uint64) (first, last uint64, err error) {
	return cursorstore.Bounds(ctx, highest, p.Events.Bounds)
}
