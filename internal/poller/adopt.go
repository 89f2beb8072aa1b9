package poller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// lookAgain is how often the document of a poll under way elsewhere is looked at: its outcome ends the wait
// for its deadline.
const lookAgain = time.Second

// How saving the document ends when it does not succeed and the store is well.
var (
	errSuperseded = errors.New("another replica has taken the connection over")
	errContested  = errors.New("an earlier owner has written the document meanwhile")
	errDeleted    = errors.New("the connection was deleted meanwhile")
)

// adopt takes the connection over: it waits for the end of a poll that another process has
// announced, writes the document under the lease's epoch, and publishes a gap for a poll whose end
// is unknown. It returns false if ctx ended first, or if a later owner was found.
func (r *runner) adopt(ctx context.Context) bool {
	var pollID string // waited for
	var until time.Time
	for r.lease.Await(ctx) {
		doc, err := r.load(ctx)
		if err == nil {
			if in := doc.Intent; in != nil && in.Owner != r.p.nonce && !r.p.Exclusive {
				if in.PollID != pollID {
					pollID, until = in.PollID, time.Now().Add(remaining(in))
					r.log.Info("a poll of another process may be under way; waiting for its end", "poll_id", in.PollID, "at_most", time.Until(until).Round(time.Millisecond).String())
				}
				if left := time.Until(until); left > 0 {
					backoff.Sleep(ctx, min(left, lookAgain))
					continue
				}
			}
			if in := doc.Intent; in != nil && r.p.leftPages.has(in.PollID) {
				backoff.Sleep(ctx, lookAgain) // the page of our own poll is in this process's memory still
				continue
			}
			r.doc = doc
			err = r.takeOver(ctx)
		}
		switch {
		case err == nil:
			r.adopted, r.storeFailures = true, 0
			if r.revision > 0 { // else what is not stored yet may still be
				r.p.unsentPolls.Delete(r.config().ID)
			}
			return true
		case r.lost:
			return false
		case errors.Is(err, errContested):
			continue
		}
		if r.storeFailures == 0 && !store.InTrouble(err) {
			r.log.Error("where the connection stands cannot be read; trying again", "error", err)
		}
		backoff.Sleep(ctx, r.storeWait())
	}
	return false
}

// remaining is how long a poll under way elsewhere may last from now. It is never longer than its own
// stated duration: clocks differ and jump.
func remaining(in *relay.PollIntent) time.Duration {
	return min(time.Until(in.Deadline), in.Deadline.Sub(in.At))
}

// load reads the document; one of another connection of the same name counts as none.
func (r *runner) load(ctx context.Context) (relay.Poll, error) {
	doc, revision, err := r.p.Store.Polls.Get(ctx, r.config().ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return doc, err
	}
	if r.superseded(doc.Epoch) {
		return doc, errSuperseded
	}
	r.revision = revision
	if doc.Generation != r.generation {
		doc = relay.Poll{Generation: r.generation}
	}
	return doc, nil
}

// takeOver writes the document under our epoch, after which no earlier owner's write succeeds. Then
// it looks for the end of the poll that the document names.
func (r *runner) takeOver(ctx context.Context) error {
	if r.revision > 0 {
		if err := r.save(ctx); err != nil {
			return err
		}
	}
	if r.doc.Intent == nil {
		return nil
	}
	intent := *r.doc.Intent
	unsent, _ := r.p.unsentPolls.Load(r.config().ID)
	page, err := r.find(ctx, intent)
	r.doc.InboxSeq = max(page.Seq, r.doc.InboxSeq)
	switch {
	case unsent == intent.PollID: // our own: there was no answer to its announcement, and so no call
	case err == nil: // stored; only the outcome was not written any more
		if err := r.suspectPart(ctx, intent, page); err != nil {
			return err
		}
		r.doc.PolledAt = page.ReceivedAt
		r.doc.Outcome = &relay.PollOutcome{PollID: intent.PollID, At: page.ReceivedAt, Result: "done", InboxSeq: page.Seq, CorrelationID: page.CorrelationID}
	case errors.Is(err, store.ErrNotFound):
		r.log.Warn("a poll was under way when its owner ended, and what it brought is not in the inbox", "poll_id", intent.PollID, "at", intent.At)
		why := "The relay ended between a poll of the vendor and storing its answer."
		if page.Seq > 0 {
			why = "The relay ended while it stored an answer of the vendor's queue that was too large for one message; a part of it was stored."
		}
		if err := r.suspect(ctx, intent.At, why); err != nil {
			return err
		}
	default:
		return err
	}
	r.doc.Intent = nil
	if err := r.save(ctx); err != nil {
		r.doc.Intent = &intent
		return err
	}
	return nil
}

// find looks for the end of what a poll brought in the inbox; ErrNotFound if it is not there, with the last
// part of it that is. Pages of other polls may have come after it: a former owner's, stored late.
func (r *runner) find(ctx context.Context, intent relay.PollIntent) (store.Page, error) {
	id := r.config().ID
	last, err := r.p.Store.Inbox.Last(ctx, id)
	if err != nil || last.EndsPoll(intent.PollID) {
		return last, err
	}
	var part store.Page
	if r.doc.InboxSeq > 0 {
		page, err := r.p.Store.Inbox.Find(ctx, id, r.doc.InboxSeq+1, func(there store.Page) bool {
			if there.PollID == intent.PollID {
				part = there
			}
			return there.EndsPoll(intent.PollID)
		})
		if !errors.Is(err, store.ErrNotFound) {
			return page, err
		}
	} else if last.PollID == intent.PollID {
		part = last
	}
	return part, fmt.Errorf("page of poll %s: %w", intent.PollID, store.ErrNotFound)
}

// suspectPart suspects a gap if the stored page of a poll that nobody concluded is not all that the vendor
// handed out.
func (r *runner) suspectPart(ctx context.Context, intent relay.PollIntent, page store.Page) error {
	contents := audatex.ReadContents(audatex.Page{Body: page.Body, Truncated: page.Truncated, Encoding: page.Encoding})
	foreign := (page.Foreign || contents.Foreign) && page.Part <= 1 // the other parts may hold notifications
	switch {
	case page.Truncated:
		return r.suspect(ctx, intent.At, whyLost)
	case foreign && r.doc.ForeignSince == nil:
		r.doc.ForeignSince = &intent.At
		return r.suspect(ctx, intent.At, whyForeign)
	}
	return nil
}

// Why a gap is suspected, in words that begin its event.
const (
	whyLost    = "An answer of the vendor's queue was lost on the way."
	whyForeign = "Something else was sent in the place of the vendor's queue; it is kept among the unresolved notifications."
	whyTooBig  = "An answer of the vendor's queue could not be stored, as NATS takes no message that large."
)

// suspect records a suspected gap since at, and publishes it. The caller saves the document.
func (r *runner) suspect(ctx context.Context, at time.Time, why string) error {
	r.doc.GapSuspectedAt = &at
	r.readAgain(relay.CauseGap, at)
	r.p.Metrics.gaps.Inc()
	return r.publishGap(ctx, relay.UnpublishedGap{Since: at, Why: why})
}

func (r *runner) publishGap(ctx context.Context, gap relay.UnpublishedGap) error {
	c := r.config()
	since := relay.FormatTime(gap.Since)
	message := gap.Why + " Notifications may have been lost at " + since + "; the orders of this connection that are known to be open are read again."
	details := map[string]any{"connection": c.ID, "since": since, "why": gap.Why}
	if r.doc.SubscriptionLost { // one that is lost with every poll is not published with every poll
		return r.p.Operations.Operational(ctx, c.EventSite(), relay.KindGapSuspected, c.ID, message, details)
	}
	return r.p.Operations.Once(ctx, c.EventSite(), relay.KindGapSuspected, c.ID, message, details, gap.Since, "since", "why")
}

// maxUnpublishedGaps is how many unpublished gaps are kept. Polling stops while the store takes no
// writes, so there are few.
const maxUnpublishedGaps = 100

// publishUnpublishedGaps publishes the gaps whose events could not be stored when they were
// suspected. If that fails again, polling goes on, and the next turn tries it again.
func (r *runner) publishUnpublishedGaps(ctx context.Context) {
	if len(r.doc.UnpublishedGaps) == 0 || !r.lease.Valid() {
		return
	}
	for len(r.doc.UnpublishedGaps) > 0 {
		if err := r.publishGap(ctx, r.doc.UnpublishedGaps[0]); err != nil {
			r.log.Log(ctx, store.Level(err, slog.LevelError), "the operational event of a suspected gap could not be stored yet", "error", err)
			return
		}
		r.doc.UnpublishedGaps = r.doc.UnpublishedGaps[1:]
	}
	r.doc.UnpublishedGaps = nil
	r.write(ctx)
}

// readAgain has the connection's open orders read again, once the document is saved: changes may have been
// missed since a time.
func (r *runner) readAgain(cause relay.ReconcileCause, since time.Time) {
	if cause == relay.CauseGap && r.doc.SubscriptionLost { // before there is a new one, what was read could be missed again
		return
	}
	r.doc.Gaps++
	r.doc.GapCause, r.doc.GapSince = cause, &since
}

// saveAtOnce is how often the document is written in a row while what is there is an older one of
// our own, or none.
const saveAtOnce = 3

// save writes the document over the revision that was read. An earlier owner's document in its
// place is errContested and must be looked at, as that owner's poll may be under way; a later
// owner's ends this runner.
func (r *runner) save(ctx context.Context) error {
	r.doc.Epoch = r.lease.Epoch()
	var result store.OwnedResult[relay.Poll]
	for range saveAtOnce {
		put := store.Put[relay.Poll]{Key: r.config().ID, Value: r.doc, Revision: r.revision}
		result = store.PutOwned(ctx, r.p.Store.Polls, []store.Put[relay.Poll]{put}, true)[0]
		switch there := result.Entry; result.Outcome {
		case store.Written:
			r.revision, r.storeFailures = there.Revision, 0
			if r.doc.Gaps != r.reportedGaps {
				r.reportedGaps = r.doc.Gaps
				r.p.Reconciler.Suspected(r.config().ID, r.doc)
			}
			return nil
		case store.Superseded:
			r.superseded(there.Value.Epoch)
			return errSuperseded
		case store.Unclear, store.NotStored:
			return result.Err
		case store.Changed:
			if there.Deleted && r.deleted(ctx) {
				r.lost = true
				return errDeleted
			}
			if r.revision = there.Revision; !there.Deleted && there.Value.Epoch < r.doc.Epoch {
				r.adopted = false
				return fmt.Errorf("%w: %w", errContested, result.Err)
			}
		}
	}
	return result.Err
}

// deleted reports whether the connection is registered no more: whoever deletes one removes its document after it.
func (r *runner) deleted(ctx context.Context) bool {
	c := r.p.Store.Connections.Current(ctx, []string{r.config().ID})[0]
	return c.Err == nil && (c.Deleted || c.Value.Generation != r.generation)
}

// superseded reports whether an epoch found in the document is a later owner's, and passes it to the lease.
func (r *runner) superseded(epoch uint64) bool {
	if epoch <= r.lease.Epoch() {
		return false
	}
	if !r.lost {
		r.log.Info("another replica has taken the connection over; stepping back", "epoch", r.lease.Epoch(), "found", epoch)
	}
	r.lost = true
	r.lease.Superseded(epoch)
	return true
}
