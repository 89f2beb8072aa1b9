package poller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// whyCut is why a gap is suspected if what was stored is lost.
const whyCut = "What was stored last is lost, as in a power cut, and with it answers of the vendor's queue."

// Prepare suspects a gap for every connection that has lost pages, or events: its document names a
// page beyond the end of the inbox, or it is among those of lost. Every replica does so for all
// connections before it holds any shard, with lost nil, and once more if NATS loses the end of a
// log.
func (p *Poller) Prepare(ctx context.Context, lost *store.LostError) error {
	entries, err := p.Store.Polls.All(ctx, "", func(key string, err error) {
		if isConnection(key) {
			p.Log.ErrorContext(ctx, "a connection's document cannot be read; whether it has lost pages is not known",
				"connection", key, "error", err)
		}
	})
	if err != nil {
		return fmt.Errorf("read the documents of the connections: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e store.Entry[relay.Poll]) bool { return !isConnection(e.Key) })
	inbox := lost.InInbox()
	if inbox == nil {
		if inbox, err = p.endOfInbox(ctx, entries); err != nil {
			return fmt.Errorf("read the end of the inbox: %w", err)
		}
	}
	since := map[string]time.Time{}
	for _, cut := range []*store.Cut{inbox, lost.InEvents()} {
		if cut == nil {
			continue
		}
		for _, connection := range cut.Connections {
			if at, there := since[connection]; !there || cut.EndAt.Before(at) {
				since[connection] = cut.EndAt
			}
		}
	}
	for _, e := range entries {
		if err := p.suspectLost(ctx, e, inbox, since); err != nil {
			return fmt.Errorf("suspect a gap of connection %s: %w", e.Key, err)
		}
	}
	return nil
}

// isConnection reports whether a key of the bucket is that of a connection's document.
func isConnection(key string) bool { return !strings.Contains(key, ".") }

// endOfInbox returns where the inbox ends.
func (p *Poller) endOfInbox(ctx context.Context, entries []store.Entry[relay.Poll]) (*store.Cut, error) {
	highest := uint64(0)
	for _, e := range entries {
		highest = max(highest, e.Value.InboxSeq)
	}
	_, last, err := cursorstore.Bounds(ctx, highest, p.Store.Inbox.Bounds)
	if err != nil || highest <= last || last == 0 { // there is no message 0
		return &store.Cut{End: last}, err
	}
	page, err := p.Store.Inbox.Page(ctx, last)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return &store.Cut{End: last, EndAt: page.ReceivedAt}, err
}

// suspectTries is how often a document is read again that somebody else writes meanwhile.
const suspectTries = 10

// suspectLost suspects a gap of a connection if it has lost something. Since has from when on what
// the connections have lost was stored.
func (p *Poller) suspectLost(
	ctx context.Context, e store.Entry[relay.Poll], inbox *store.Cut, since map[string]time.Time,
) error {
	for range suspectTries {
		at, named := since[e.Key]
		beyond := e.Value.InboxSeq > inbox.End && !inbox.Spares(e.Written)
		if beyond && (!named || inbox.EndAt.Before(at)) {
			at = inbox.EndAt
		}
		if at.IsZero() { // nothing that was stored before is left
			at = e.Value.PolledAt
		}
		doc := e.Value
		if beyond {
			doc.InboxSeq = inbox.End
		}
		if known := doc.GapSuspectedAt; beyond || named && (known == nil || !known.Equal(at)) {
			doc.Suspect(at, whyCut)
		} else {
			return nil
		}
		_, err := p.Store.Polls.Update(ctx, e.Key, doc, e.Revision)
		if err == nil {
			p.Metrics.gaps.Inc()
			p.Log.WarnContext(ctx, "the last of what was stored of a connection is lost; a gap is suspected",
				"connection", e.Key, "since", at)
		}
		if err == nil || !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnclear) {
			return err
		}
		there := p.Store.Polls.Current(ctx, []string{e.Key})[0]
		if there.Err != nil || there.Deleted {
			return there.Err
		}
		e = there.Entry
	}
	return store.ErrConflict
}
