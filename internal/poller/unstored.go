package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// onceFor is for how long the inbox recognises a message that it has stored before, with room for
	// clocks: half of its window.
	onceFor = time.Minute
	// leastBody is the least room for a body with which parts are made: what an abridged
	// notification needs at most.
	leastBody = 16 << 10
)

// errNeverFits means that the store does not even take the smallest part of a response. No later try
// succeeds.
var errNeverFits = errors.New("it does not fit in the store, in however small parts")

// unstoredPage is a response of the vendor's queue that is nowhere but in memory until the inbox has
// all of it. One that is too large for a message is stored in parts, one after the other. Each is a
// page by itself and holds whole notifications, so the resolver need not know of it; all parts but
// the last are marked, so that a poll of which the last is missing is known not to be stored
// wholly.
type unstoredPage struct {
	page     store.Page // as it came
	contents audatex.Contents

	next  store.Page // what must be stored next: all of page, or the part with the elements [from, to)
	from  int
	to    int
	parts int       // stored
	most  int       // 0, or the largest body that a part may have, whatever limit the server reports
	after uint64    // the connection's last page before next, 0 if there was none
	since time.Time // when next was tried first
	tries int       // of next
}

// newUnstoredPage returns what a poll brought, to be stored after the connection's page at after.
func newUnstoredPage(page store.Page, contents audatex.Contents, after uint64) *unstoredPage {
	page.Entries = contents.Entries()
	if contents.Foreign { // one entry, and not to be cut
		contents.List = []audatex.Notification{{Raw: page.Body, Malformed: true}}
	}
	return &unstoredPage{page: page, contents: contents, next: page, to: len(contents.List), after: after}
}

// put tries to store the response, each part once however often put is called, and returns where the last
// part is. Every error but errNeverFits is worth another try.
func (p *Poller) put(ctx context.Context, h *unstoredPage) (uint64, error) {
	for {
		room, err := p.Store.Inbox.Room(h.page)
		if err != nil {
			return 0, err
		}
		if err := h.fit(room); err != nil {
			return 0, err
		}
		seq, err := p.putNext(ctx, h)
		switch {
		case errors.Is(err, store.ErrTooLarge): // a limit of the stream, or one that has changed since
			if err := h.shrink(); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, err
		case !h.next.More:
			return seq, nil
		default:
			h.stored(seq)
		}
	}
}

// putNext stores the next part. A try whose response was lost may have stored it, and later than the inbox's
// own memory of messages lasts only the inbox itself can show.
func (p *Poller) putNext(ctx context.Context, h *unstoredPage) (uint64, error) {
	find := func() (store.Page, error) {
		return p.Store.Inbox.Find(ctx, h.page.Connection, h.after+1, func(there store.Page) bool {
			return there.PollID == h.page.PollID && there.Part == h.next.Part
		})
	}
	if h.tries == 0 {
		h.since = time.Now()
	} else if time.Since(h.since).Abs() > onceFor {
		if found, err := find(); !errors.Is(err, store.ErrNotFound) {
			return found.Seq, err
		}
	}
	h.tries++
	seq, err := p.Store.Inbox.Append(ctx, h.next)
	if errors.Is(err, store.ErrTooLarge) && h.tries > 1 { // it fitted when it was tried before
		if found, lookErr := find(); !errors.Is(lookErr, store.ErrNotFound) {
			return found.Seq, lookErr
		}
	}
	return seq, err
}

// fit cuts the next part so that its body fits in room. What was tried stays as it is.
func (h *unstoredPage) fit(room int) error {
	if h.most > 0 {
		room = min(room, h.most)
	}
	switch {
	case h.tries > 0, h.next.Body != nil && len(h.next.Body) <= room:
		return nil
	case room < leastBody: // the names of the sites have taken it, most likely
		return fmt.Errorf("%w: %d bytes of a message are left for it", errNeverFits, max(room, 0))
	}
	h.cut(room)
	return nil
}

// shrink lets the next part, which was refused, be cut again, to half of its size at most.
func (h *unstoredPage) shrink() error {
	if h.most = len(h.next.Body) / 2; h.most < leastBody {
		return fmt.Errorf("%w: %d bytes were refused", errNeverFits, len(h.next.Body))
	}
	h.tries, h.next.Body = 0, nil
	return nil
}

// stored continues with the next part.
func (h *unstoredPage) stored(seq uint64) {
	h.parts++
	h.after, h.from, h.tries, h.next.Body = seq, h.to, 0, nil
}

// cut makes the next part of as many elements as fit in room, at least one.
func (h *unstoredPage) cut(room int) {
	list := h.contents.List
	h.next = h.page
	h.next.Part = h.parts + 1
	begin, between, end := h.contents.Frame()
	body := []byte(begin)
	for h.to = h.from; h.to < len(list); h.to++ {
		need := len(list[h.to].Raw) + len(between) + len(end)
		if len(body)+need > room || h.contents.Foreign {
			break
		}
		if h.to > h.from {
			body = append(body, between...)
		}
		body = append(body, list[h.to].Raw...)
	}
	if h.to < len(list) || h.contents.Whole { // else the end of a page that was cut stays open
		body = append(body, end...)
	}
	if h.next.Body = body; h.to == h.from {
		h.next.Body, h.next.Size, h.next.Foreign = standIn(list[h.from], room), len(list[h.from].Raw),
			h.contents.Foreign || h.contents.ForeignAt(h.from)
		h.to++
	}
	h.next.Entries, h.next.More = h.to-h.from, h.to < len(list)
}

// standIn returns what is kept of an element that is larger than room: what its event is made of if its
// order is known, else its first bytes.
func standIn(n audatex.Notification, room int) []byte {
	if n.Order != "" {
		return n.Abridge()
	}
	return n.Raw[:min(room, len(n.Raw))]
}
