package poller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/signal"
)

// lastTry bounds the storing of what is still kept when the process ends.
const lastTry = 2 * time.Second

// leftAtOnce is how many connections' kept pages are stored side by side.
const leftAtOnce = 16

// leftPages are the pages whose shard was given up before they could be stored. The vendor has
// given them away for good, so they are kept for as long as the process lives, whoever polls their
// connections by now.
type leftPages struct {
	mu    sync.Mutex
	pages []*unstoredPage
	added signal.Signal
}

func (k *leftPages) add(h *unstoredPage) {
	k.mu.Lock()
	k.pages = append(k.pages, h)
	k.mu.Unlock()
	k.added.Set()
}

// has reports whether the page of a poll is kept.
func (k *leftPages) has(pollID string) bool {
	return slices.ContainsFunc(k.list(), func(h *unstoredPage) bool { return h.page.PollID == pollID })
}

// list returns what is kept now.
func (k *leftPages) list() []*unstoredPage {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.pages)
}

func (k *leftPages) drop(h *unstoredPage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pages = slices.DeleteFunc(k.pages, func(other *unstoredPage) bool { return other == h })
}

// storeLeftPages stores what is kept as soon as the store takes it, until ctx ends; then it tries
// once more.
func (p *Poller) storeLeftPages(ctx context.Context) {
	wait := backoff.Backoff{Least: storeLeast, Most: storeMost}
	for ctx.Err() == nil {
		if len(p.leftPages.list()) == 0 {
			wait.Reset()
			select {
			case <-ctx.Done():
			case <-p.leftPages.added:
			}
			continue
		}
		if p.storeLeft(ctx) {
			wait.Reset()
			continue
		}
		wait.Sleep(ctx, 0)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	if len(p.leftPages.list()) > 0 {
		p.storeLeft(last)
	}
	for _, h := range p.leftPages.list() {
		p.Log.Error("stopping with a page that could not be stored; its notifications are lost, and a gap is suspected",
			"connection", h.page.Connection, "poll_id", h.page.PollID, "bytes", len(h.page.Body))
	}
}

// storeLeft tries each page that is kept, and reports whether none is left of those. A connection's pages
// go one after the other; what keeps those of one connection from being stored keeps no other's.
func (p *Poller) storeLeft(ctx context.Context) bool {
	byConnection := map[string][]*unstoredPage{}
	for _, h := range p.leftPages.list() {
		byConnection[h.page.Connection] = append(byConnection[h.page.Connection], h)
	}
	var storing errgroup.Group
	storing.SetLimit(leftAtOnce)
	for _, pages := range byConnection {
		storing.Go(func() error {
			for _, h := range pages {
				if err := p.storeOne(ctx, h); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return storing.Wait() == nil
}

// storeOne tries to store a kept page, and returns an error if the page must be kept longer.
func (p *Poller) storeOne(ctx context.Context, h *unstoredPage) error {
	_, err := p.put(ctx, h)
	switch {
	case errors.Is(err, errNeverFits):
		// its poll has no end in the inbox, so whoever takes the connection over suspects a gap
		p.Log.Error("a page of the vendor's queue that was held in memory is given up, as the store does not take it",
			"connection", h.page.Connection, "poll_id", h.page.PollID, "bytes", len(h.page.Body), "error", err)
	case err != nil:
		return err
	default:
		p.Log.Info("the page that was held in memory is stored", "connection",
			h.page.Connection, "poll_id", h.page.PollID)
	}
	p.leftPages.drop(h)
	return nil
}
