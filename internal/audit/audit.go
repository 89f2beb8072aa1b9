// Package audit keeps the log of changes that were requested by the API: who, when, from where, what, and how it ended.
// A record, which holds no body and no secret, is stored before anything is changed, so there is no change without one;
// a second record has how it ended, and may be missing where the relay or the store failed. Begin with Begin and End,
// then read Page.
package audit

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Log is the log of requested changes.
type Log struct{ records *store.Audit }

// New returns the log over a store.
func New(records *store.Audit) *Log { return &Log{records} }

// Begin stores that a change is requested. On an error nothing may be changed.
func (l *Log) Begin(ctx context.Context, r relay.AuditRecord) (uint64, error) {
	return l.records.Append(ctx, r)
}

// End stores how the request whose record is at a position ended.
func (l *Log) End(ctx context.Context, of uint64, ended relay.AuditRecord) error {
	ended.Of = of
	_, err := l.records.Append(ctx, ended)
	return err
}

// Query selects records.
type Query struct {
	// Client is whose keys made the requests; "" selects all, also those of administrators.
	Client string
	// Generation is that of the client, so that one that was made again under an id does not see
	// what another did; "" selects any.
	Generation   string
	Since, Until time.Time // the zero time is no limit
	Before       uint64    // records before this position; 0: from the newest on
	Limit        int
}

// Entry is one request.
type Entry struct {
	store.Audited

	Ended *store.Audited // how it ended; nil if that is not known
}

// Page is a part of the log, newest first.
type Page struct {
	Entries []Entry
	Next    uint64 // Query.Before of the next page; 0: there is none
	Scanned int    // how many records were read
}

// What one page reads at most: windows of so many positions.
const (
	window  = 1_000
	windows = 8
)

// Page returns the newest requests that a query selects. It reads a bounded part of the log; a page
// may have fewer entries than the limit and a next one all the same.
func (l *Log) Page(ctx context.Context, q Query) (Page, error) {
	var page Page
	first, last, err := l.records.Bounds(ctx)
	if err != nil {
		return page, err
	}
	high, err := l.newest(ctx, q, last)
	if err != nil {
		return page, err
	}
	ended := map[uint64]store.Audited{}
	if high < last { // requests before it may have ended after it
		ahead, _, err := l.records.Scan(ctx, high+1, q.Client, window)
		if err != nil {
			return page, err
		}
		page.Scanned += len(ahead)
		for _, r := range ahead {
			ended[r.Of] = r
		}
	}
	for range windows {
		if high < first {
			return page, nil
		}
		low := max(first, high-min(high, window-1))
		records, _, err := l.records.Scan(ctx, low, q.Client, window)
		if err != nil {
			return page, err
		}
		page.Scanned += len(records)
		if page.take(q, records, high, ended) {
			return page, nil
		}
		high = low - 1
	}
	page.Next = high + 1
	return page, nil
}

// newest returns the position from which a query reads downwards.
func (l *Log) newest(ctx context.Context, q Query, last uint64) (uint64, error) {
	if q.Before > 0 {
		last = min(last, q.Before-1)
	}
	if q.Until.IsZero() {
		return last, nil
	}
	after, err := l.records.Since(ctx, q.Until)
	if err != nil {
		return 0, err
	}
	return min(last, after-min(after, 1)), nil
}

// take adds the requests among records up to a position, newest first, and reports whether the page
// is complete.
func (p *Page) take(q Query, records []store.Audited, high uint64, ended map[uint64]store.Audited) bool {
	for i := len(records) - 1; i >= 0; i-- {
		r := records[i]
		switch {
		case r.Seq > high:
			continue
		case r.Of > 0:
			ended[r.Of] = r
			continue
		case r.Time.Before(q.Since):
			return true
		case q.Generation != "" && r.Generation != q.Generation:
			continue
		case len(p.Entries) == q.Limit:
			p.Next = r.Seq + 1
			return true
		}
		entry := Entry{Audited: r}
		if end, known := ended[r.Seq]; known {
			entry.Ended = &end
		}
		p.Entries = append(p.Entries, entry)
	}
	return false
}
