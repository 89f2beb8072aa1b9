package resolver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// pagesAtOnce is how many pages are read in one go. Most are small; the largest has 8 MiB.
	pagesAtOnce = 8
	// A page that was announced but not found is looked for again so many times: on a cluster a reader
	// may lag.
	rescanAfter = 100 * time.Millisecond
	maxRescans  = 50
)

// item is one notification on its way.
type item struct {
	connection string
	page       uint64 // sequence in the inbox
	index      int
	site       string // "" if the vendor's site id is not mapped
	order      string // "" if none could be taken
	reason     reason // why it cannot be resolved whatever the vendor responds; "" if it can
	detail     string
	info       relay.NotificationInfo
	raw        []byte
	size       int  // of what came, if raw is only a part of it; else 0
	foreign    bool // it is no notification
	encoded    bool // it has a Content-Encoding that cannot be read, so nobody knows what it is
}

func (i *item) entry() uint64 { return relay.PackEntry(i.page, i.index) }

// lane returns the key of the lane in which the notification waits: that of its order. A notification that cannot
// be resolved has a lane of its own. Everything that is no notification has the same, as it is counted in order.
func (i *item) lane() string {
	switch {
	case i.foreign:
		return laneOf(relay.NoSite, i.connection+"-foreign")
	case i.reason != "":
		return laneOf(relay.NoSite, i.received().String())
	}
	return laneOf(i.site, i.order)
}

// form names the vendor's two forms of notifications, for the metric.
func (i *item) form() string {
	switch {
	case i.reason == reasonMalformed, i.foreign:
		return "malformed"
	case i.info.ID == nil:
		return "older"
	}
	return "newer"
}

// itemsOf reads a page's notifications. Which site each belongs to was written down when the page came in.
func itemsOf(p store.Page) []*item {
	// A page that is no array, or was cut, comes as its whole elements and a malformed remainder:
	// nothing is lost.
	contents := audatex.ReadContents(audatex.Page{Body: p.Body, Truncated: p.Truncated, Encoding: p.Encoding})
	notifications := contents.List
	tooLarge := p.Size > 0 && (len(notifications) != 1 || notifications[0].Order == "")
	// one entry: of something else in the queue's place, or of what is known only in part
	if contents.Foreign || tooLarge {
		it := &item{
			connection: p.Connection, page: p.Seq, raw: p.Body, size: p.Size,
			foreign: contents.Foreign && !tooLarge || p.Foreign, encoded: p.Encoding != "",
			reason: reasonMalformed, detail: contents.Reason(),
			info: relay.NotificationInfo{ReceivedAt: p.ReceivedAt},
		}
		if tooLarge {
			it.reason = reasonTooLarge
			it.detail = fmt.Sprintf("of its %d bytes only the first could be stored, as NATS takes no message that "+
				"large (max_payload)", p.Size)
		}
		return []*item{it}
	}
	mapped := relay.Connection{Site: p.Site, Sites: p.Sites, Level: p.Level}
	items := make([]*item, 0, len(notifications))
	for i, n := range notifications {
		it := &item{
			connection: p.Connection, page: p.Seq, index: i, site: mapped.SiteOf(n.SiteID), order: n.Order, raw: n.Raw,
			size: p.Size,
			info: relay.NotificationInfo{Topic: n.Topic, CreatedAt: n.CreatedAt,
				SiteID: n.SiteID, ReceivedAt: p.ReceivedAt},
		}
		if n.ID != "" {
			it.info.ID = &n.ID
		}
		switch {
		case n.Order == "" && !n.Malformed && n.Topic != "" && !audatex.IsPartsOrder(n.Topic):
			it.reason, it.detail = reasonTopic, "topic "+n.Topic
		case contents.ForeignAt(i):
			it.reason, it.detail, it.foreign, it.site = reasonMalformed, "it is no notification", true, ""
		case n.Order == "":
			it.reason, it.detail = reasonMalformed, "no order can be taken from it"
			if n.Err != nil {
				it.detail = n.Err.Error()
			}
		case it.site == "":
			if it.reason, it.detail = reasonSiteUnknown,
				"vendor site "+n.SiteID+" is mapped to no site"; n.SiteID == "" {
				it.detail = "it names no vendor site, and the connection has no site for that"
			}
		}
		items = append(items, it)
	}
	return items
}

// reader offers a connection's notifications to its cursor, and keeps in memory those that wait
// and are in no lane.
type reader struct {
	store      *store.Store
	connection string
	generation string
	cursor     *storedCursor
	asides     *asides

	head    uint64 // the connection's last page when the reader was made
	started bool
	read    uint64  // the last page read
	more    bool    // there were more when it was read
	pages   []*page // read and not wholly offered
	atHand  map[string]map[uint64]*item
	rescan  time.Time
	rescans int

	// allAnnounced is set if every page above read is announced: the inbox was read to its end since
	// pages are announced.
	allAnnounced bool
}

type page struct {
	seq   uint64
	items []*item
	next  int // of items, to be offered
}

// fill reads pages and offers their notifications as long as the cursor has room.
func (r *reader) fill(ctx context.Context, known *announced, now time.Time) error {
	wanted := known.highest()
	if !r.started {
		first, _ := relay.UnpackEntry(r.cursor.ReadFrom())
		r.read, r.started = max(first, 1)-1, true
		if r.head <= r.read {
			// Nothing waits. To read nothing would need a reader of the inbox for each of ten
			// thousand connections at a start.
		} else if err := r.scan(ctx, now, wanted, true); err != nil {
			r.started = false
			return err
		}
	}
	for r.offer() {
		if !r.more && (r.read >= wanted || r.rescan.After(now)) {
			return nil
		}
		if taken, err := r.readAnnounced(ctx, known); err != nil {
			return err
		} else if taken {
			continue
		}
		if err := r.scan(ctx, now, wanted, false); err != nil {
			return err
		}
	}
	return nil
}

// readAnnounced reads the next pages by their sequence numbers, if all of these are known. That is much cheaper
// than a reader of the inbox, on which a cluster has to agree first. It returns false if such a reader is needed.
func (r *reader) readAnnounced(ctx context.Context, known *announced) (bool, error) {
	seqs, complete := known.after(r.read)
	if r.allAnnounced = r.allAnnounced && complete; !r.allAnnounced || len(seqs) == 0 || r.more {
		return false, nil
	}
	for i, seq := range seqs[:min(len(seqs), pagesAtOnce)] {
		p, err := r.store.Inbox.Page(ctx, seq)
		if errors.Is(err, store.ErrNotFound) { // it has aged out, or the node that was asked lags
			r.allAnnounced = i > 0
			return i > 0, nil
		}
		if err != nil {
			return false, err
		}
		r.accept(p)
	}
	return true, nil
}

// accept takes a page that was read. Pages of another generation belong to an earlier connection of the
// same id; their notifications are passed over.
func (r *reader) accept(p store.Page) {
	r.read = p.Seq
	held := &page{seq: p.Seq}
	if p.Generation == r.generation {
		held.items = itemsOf(p)
	}
	r.pages = append(r.pages, held)
}

// scan reads the next pages. With first it is all right if there are none.
func (r *reader) scan(ctx context.Context, now time.Time, wanted uint64, first bool) error {
	pages, more, err := r.store.Inbox.Scan(ctx, r.connection, r.read+1, pagesAtOnce)
	if err != nil {
		return err
	}
	for _, p := range pages {
		r.accept(p)
	}
	r.more = more
	r.allAnnounced = !more
	switch {
	case len(pages) > 0 || first:
		r.rescan, r.rescans = time.Time{}, 0
	case r.rescans < maxRescans:
		r.rescans++
		r.rescan = now.Add(rescanAfter)
	default: // it has left the inbox
		r.read, r.rescan, r.rescans = wanted, time.Time{}, 0
	}
	return nil
}

// offer offers what was read. It returns false if the cursor has no room for all of it.
func (r *reader) offer() bool {
	for len(r.pages) > 0 {
		p := r.pages[0]
		for ; p.next < len(p.items); p.next++ {
			it := p.items[p.next]
			lane := it.lane()
			switch r.cursor.Offer(cursor.Entry{Seq: it.entry(), Order: lane}) {
			case cursor.Accepted:
				r.keep(lane, it)
				if it.reason == reasonSiteUnknown {
					r.asides.put(unreadAside(it))
				}
			case cursor.Full:
				return false
			case cursor.Ignored, cursor.Laned:
			}
			p.items[p.next] = nil
		}
		r.cursor.Advance(relay.PackEntry(p.seq, relay.LastIndex))
		r.pages[0] = nil
		r.pages = r.pages[1:]
	}
	return true
}

// due returns when to look again for a page that was announced but not found; false if there is none, or
// if there is no room for what was read.
func (r *reader) due() (time.Time, bool) { return r.rescan, !r.rescan.IsZero() && len(r.pages) == 0 }

func (r *reader) keep(lane string, it *item) {
	if r.atHand == nil {
		r.atHand = map[string]map[uint64]*item{}
	}
	if r.atHand[lane] == nil {
		r.atHand[lane] = map[uint64]*item{}
	}
	r.atHand[lane][it.entry()] = it
}

// atHandOf returns the notifications of a batch, with nil for each that must be read again.
func (r *reader) atHandOf(b cursor.Batch) []*item {
	return each.Of(b.Seqs, func(entry uint64) *item { return r.atHand[b.Order][entry] })
}

func (r *reader) forget(lane string, entries []uint64) {
	for _, e := range entries {
		delete(r.atHand[lane], e)
	}
	if len(r.atHand[lane]) == 0 {
		delete(r.atHand, lane)
	}
}

func (r *reader) forgetOrder(lane string) { delete(r.atHand, lane) }

// refill finds more entries for lanes that have used up the ones they list.
func (r *reader) refill(ctx context.Context) error {
	for _, need := range r.cursor.Refills() {
		first, _ := relay.UnpackEntry(need.From)
		items, through, err := scan(ctx, r.store, r.connection, r.generation, first)
		if err != nil {
			return err
		}
		var found []uint64
		for _, it := range items {
			if it.entry() >= need.From && it.entry() <= need.Through && it.lane() == need.Order {
				found = append(found, it.entry())
			}
		}
		r.cursor.Refill(need, found, min(need.Through, through))
	}
	return nil
}

// scan reads a connection's notifications from a page on. It returns all of them up to the entry through.
func scan(
	ctx context.Context, s *store.Store, connection, generation string, seq uint64,
) (items []*item, through uint64, err error) {
	pages, more, err := s.Inbox.Scan(ctx, connection, seq, pagesAtOnce)
	for _, p := range pages {
		if p.Generation == generation {
			items = append(items, itemsOf(p)...)
		}
	}
	if !more || len(pages) == 0 {
		return items, math.MaxUint64, err
	}
	return items, relay.PackEntry(pages[len(pages)-1].Seq, relay.LastIndex), err
}

// fetch reads the notifications of a batch that are nil in items. Those whose page has left the inbox stay
// nil. Workers call it.
func fetch(ctx context.Context, s *store.Store, connection, generation string, entries []uint64, items []*item) error {
	var have map[uint64]*item // of the pages read last
	var through uint64
	for i, entry := range entries {
		if items[i] != nil {
			continue
		}
		if have == nil || entry > through {
			seq, _ := relay.UnpackEntry(entry)
			read, upTo, err := scan(ctx, s, connection, generation, seq)
			if err != nil {
				return err
			}
			have, through = map[uint64]*item{}, upTo
			for _, it := range read {
				have[it.entry()] = it
			}
		}
		items[i] = have[entry]
	}
	return nil
}
