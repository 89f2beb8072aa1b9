package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// lookAgain is how often the document of a poll under way elsewhere is looked at: its outcome ends the wait
// for its deadline.
const lookAgain = time.Second

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
					r.log.Info("a poll of another process may be under way; waiting for its end",
						"poll_id", in.PollID, "at_most", time.Until(until).Round(time.Millisecond).String())
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
		if r.storeFailures == 0 && !store.InTrouble(err) && ctx.Err() == nil {
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
	case unsent == intent.PollID: // our own: there was no response to its announcement, and so no call
	case err == nil: // stored; only the outcome was not written any more
		if err := r.suspectPart(ctx, intent, page); err != nil {
			return err
		}
		r.doc.PolledAt = page.ReceivedAt
		r.doc.Outcome = &relay.PollOutcome{PollID: intent.PollID, At: page.ReceivedAt, Result: "done",
			InboxSeq: page.Seq, CorrelationID: page.CorrelationID}
	case errors.Is(err, store.ErrNotFound):
		r.log.Warn("a poll was under way when its owner ended, and what it brought is not in the inbox", "poll_id",
			intent.PollID, "at", intent.At)
		why := "The relay ended between a poll of the vendor and storing its answer."
		if page.Seq > 0 {
			why = "The relay ended while it stored an answer of the vendor's queue that was too large for one " +
				"message; a part of it was stored."
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
