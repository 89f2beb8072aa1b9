package poller

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

const (
	// onceFor is for how long the inbox recognises a poll id that it has stored before, with room for clocks: half of its window.
	onceFor = time.Minute
	// lastTry bounds the storing of what is still kept when the process ends.
	lastTry = 2 * time.Second
)

// held is a page that was read from the vendor, and is nowhere but in memory until the inbox has it.
type held struct {
	page  store.Page
	after uint64 // the connection's last page before it, 0 if there was none
	since time.Time
	tries int
}

// put tries to store the page, once however often it is called: a try whose answer was lost may have stored it, and later than the inbox's
// own memory of poll ids lasts only the inbox itself can tell.
func (p *Poller) put(ctx context.Context, h *held) (uint64, error) {
	if h.tries > 0 && time.Since(h.since).Abs() > onceFor {
		found, err := p.Store.Inbox.Find(ctx, h.page.Connection, h.page.PollID, h.after+1)
		if !errors.Is(err, store.ErrNotFound) {
			return found.Seq, err
		}
	}
	h.tries++
	return p.Store.Inbox.Append(ctx, h.page)
}

// kept are the pages whose shard was given up before they could be stored. The vendor has given them away for good, so they are kept for as
// long as the process lives, whoever polls their connections by now.
type kept struct {
	mu    sync.Mutex
	pages []*held
	added chan struct{}
}

func (k *kept) add(h *held) {
	k.mu.Lock()
	k.pages = append(k.pages, h)
	k.mu.Unlock()
	select {
	case k.added <- struct{}{}:
	default:
	}
}

// holds reports whether the page of a poll is kept.
func (k *kept) holds(pollID string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.pages {
		if h.page.PollID == pollID {
			return true
		}
	}
	return false
}

// list answers what is kept now.
func (k *kept) list() []*held {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*held(nil), k.pages...)
}

func (k *kept) drop(h *held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, other := range k.pages {
		if other == h {
			k.pages = append(k.pages[:i], k.pages[i+1:]...)
			return
		}
	}
}

// keepPages stores what is kept as soon as the store takes it, until ctx ends; then it tries once more.
func (p *Poller) keepPages(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		if len(p.kept.list()) == 0 {
			failures = 0
			select {
			case <-ctx.Done():
			case <-p.kept.added:
			}
			continue
		}
		if p.storeKept(ctx) {
			failures = 0
			continue
		}
		failures++
		sleep(ctx, storeWait(failures))
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	if len(p.kept.list()) > 0 {
		p.storeKept(last)
	}
	for _, h := range p.kept.list() {
		p.Log.Error("stopping with a page that could not be stored; its notifications are lost, and a gap is suspected", "connection", h.page.Connection,
			"poll_id", h.page.PollID, "bytes", len(h.page.Body))
	}
}

// storeKept tries each page that is kept; false if the store took none.
func (p *Poller) storeKept(ctx context.Context) bool {
	for _, h := range p.kept.list() {
		if _, err := p.put(ctx, h); err != nil {
			return false
		}
		p.kept.drop(h)
		p.Log.Info("the page that was held in memory is stored", "connection", h.page.Connection, "poll_id", h.page.PollID, "tries", h.tries)
	}
	return true
}
