package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// intentSlack is how much of an intent's duration may have gone by when it is stored. A process
// that was suspended in between sends nothing: its successor may not be waiting any more.
const intentSlack = 5 * time.Second

// errLate means that too much time has gone by since a poll was announced.
var errLate = errors.New("the poll's announcement took too long, or the shard was lost meanwhile; nothing was sent")

// poll makes one poll and returns how long to wait for the next.
func (r *runner) poll(ctx, storing context.Context) time.Duration {
	c := r.config()
	if r.unstorable() != nil {
		return r.blocked()
	}
	// What the last poll came to stands before the next; this also proves, for no request, that the store takes writes.
	if r.unsaved && r.saveLate(ctx) != nil {
		return r.blocked()
	}
	if r.doc.SubscriptionID == "" {
		if wait, ok := r.subscribe(ctx, c); !ok {
			return wait
		}
	}
	r.publishAdopted(ctx)
	r.logOtherTopic()
	page := store.Page{PollID: relay.NewID(), Connection: c.ID, Generation: c.Generation}
	announced, foreign := false, false
	answer, err := r.p.Session(c).Poll(ctx, r.doc.SubscriptionID, func(context.Context) error {
		if !r.lease.Valid() { // the token or the budget took its time
			return errLate
		}
		if err := r.unstorable(); err != nil {
			return err
		}
		err := r.announce(storing, page.PollID)
		announced = err == nil
		return err
	})
	if !announced { // nothing was sent: no token, no budget in time, or a store that takes no writes
		return r.handleUnsent(ctx, err)
	}
	outcome := relay.PollOutcome{PollID: page.PollID, At: time.Now(), Result: audatex.OutcomeOf(err).String(),
		CorrelationID: answer.CorrelationID}
	if err != nil {
		outcome.Error, outcome.CorrelationID = err.Error(), audatex.CorrelationIDOf(err)
	}
	if answer.Carried() {
		page.ReceivedAt, page.Truncated, page.CorrelationID, page.Body = answer.ReceivedAt, answer.Truncated,
			answer.CorrelationID, answer.Body
		page.Encoding = answer.Encoding
		mapped := r.config() // as it is when the page is stored: the poll may have taken a while
		page.Site, page.Sites, page.Level = mapped.Site, mapped.Sites, mapped.Level
		contents := audatex.ReadContents(answer)
		seq, fate := r.storePage(storing, page, contents)
		switch fate {
		case pageLeft: // the next owner sees the intent without an outcome
			r.adopted = false
			return storeLeast
		case pageGivenUp:
			err = fmt.Errorf("an answer of %d bytes could not be stored: %w", len(page.Body), errNeverFits)
		case pageStored:
			outcome.InboxSeq, r.doc.InboxSeq = seq, max(seq, r.doc.InboxSeq)
			outcome.Notifications, outcome.Full = contents.Notifications(), len(contents.List) >= audatex.PageLimit
			if err == nil {
				err = contents.Err(answer)
			}
			foreign = contents.Foreign
		}
		if err != nil {
			outcome.Error, outcome.Result = err.Error(), audatex.OutcomeOf(err).String()
		}
	}
	return r.conclude(storing, err, outcome, foreign)
}

// unstorable returns why nothing may be taken out of the vendor's queue, nil if it may: some part of the store takes no
// writes, and what cannot go its whole way waits better with the vendor than in a log that fills up meanwhile.
func (r *runner) unstorable() error {
	if t := r.p.Store.Health().Trouble(); t.Writes {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, t.Err)
	}
	return nil
}

// announce stores the intent. It does so under storing: a stop that broke the write off would leave it unclear, and the
// next owner would suspect a gap where nothing was sent. Once stored, the call runs to its end.
func (r *runner) announce(storing context.Context, pollID string) error {
	now := time.Now()
	r.doc.Intent = &relay.PollIntent{PollID: pollID, Owner: r.p.nonce, At: now,
		Deadline: now.Add(intentSlack + r.p.PollBound)}
	err := r.save(storing)
	if err == nil && (!r.lease.Valid() || time.Since(now) > intentSlack || time.Since(now.Round(0)) > intentSlack) {
		err = errLate
		r.doc.Intent = nil
		r.write(storing)
	}
	if err != nil {
		r.doc.Intent = nil
		r.unsaved = true // an unclear write may stand in the store
		r.p.unsentPolls.Store(r.config().ID, pollID)
	}
	return err
}

// pageFate is what became of a page that was read.
type pageFate int

const (
	pageStored  pageFate = iota // it is stored
	pageLeft                    // the shard was given up; it stays in memory until it is stored, see leftPages
	pageGivenUp                 // the store will never take it
)

// storePage stores a page that was read. Nothing is polled for the connection meanwhile, and its state shows that. It
// asks for no lease: what the vendor has given away must be kept, whoever owns the connection by now.
func (r *runner) storePage(ctx context.Context, page store.Page, contents audatex.Contents) (uint64, pageFate) {
	h := newUnstoredPage(page, contents, r.doc.InboxSeq)
	defer r.set(func(s *seen) { s.unstored = "" })
	for failures := 0; ; failures++ {
		seq, err := r.p.put(ctx, h)
		switch {
		case err == nil:
			if failures > 0 {
				r.log.Info("the page that was held in memory is stored", "poll_id", page.PollID, "tries", failures+1)
			}
			if h.parts > 0 {
				r.log.Warn(
					"an answer of the vendor's queue was too large for one message and is stored in parts; raise "+
						"max_payload of NATS",
					"poll_id", page.PollID, "bytes", len(page.Body), "parts", h.parts+1,
					"max_payload", r.p.Store.MaxMessage())
			}
			r.storeFailures = 0
			return seq, pageStored
		case errors.Is(err, errNeverFits):
			r.log.Error(
				"a page of the vendor's queue is given up, as the store does not take it; its notifications are "+
					"lost, and a gap is suspected",
				"poll_id", page.PollID, "bytes", len(page.Body), "max_payload", r.p.Store.MaxMessage(), "error", err)
			return 0, pageGivenUp
		case failures == 0:
			r.log.Error(
				"a page of the vendor's queue cannot be stored; it is held in memory and nothing more is polled "+
					"until it is",
				"poll_id", page.PollID, "bytes", len(page.Body), "error", err)
			r.set(func(s *seen) {
				s.state = StateFailing
				s.unstored = fmt.Sprintf("An answer of the vendor's queue of %d bytes cannot be stored and is held "+
					"in memory: %v", len(page.Body), err)
			})
		}
		if !backoff.Sleep(ctx, r.storeWait()) {
			r.log.Warn(
				"the shard was given up with a page that could not be stored; it stays in memory, and the next owner "+
					"may suspect a gap",
				"poll_id", page.PollID)
			r.p.leftPages.add(h)
			return 0, pageLeft
		}
	}
}

// conclude writes a poll's outcome and returns how long to wait for the next. Foreign: something
// else was sent in the queue's place, and is stored.
func (r *runner) conclude(ctx context.Context, err error, outcome relay.PollOutcome, foreign bool) time.Duration {
	r.p.Metrics.poll(audatex.OutcomeOf(err), outcome.Notifications)
	// A poll that got a 401 has read nothing. What the token endpoint sends then, or fails to
	// send, shows nothing about the queue.
	var vendor *audatex.Error
	ofPoll := errors.As(err, &vendor) && vendor.Operation == audatex.OpPoll
	lost, gone := ofPoll && vendor.AnswerLost || errors.Is(err, errNeverFits),
		ofPoll && vendor.Outcome == audatex.NotFound
	if (lost || gone) && !r.lease.Valid() {
		// Only the owner publishes a gap, and whether that is still we is not known: the intent
		// without an outcome shows it.
		r.adopted = false
		return storeLeast
	}
	intent := *r.doc.Intent
	r.doc.Intent, r.doc.Outcome = nil, &outcome

	if gone { // the subscription is gone, and with it whatever waited in it
		r.log.Warn("the vendor no longer knows the subscription; subscribing again",
			"subscription", r.doc.SubscriptionID, "correlation_id", outcome.CorrelationID)
		r.doc.SubscriptionID, r.doc.SubscriptionLost = "", true
		again := r.pause(r.doc.Failures)
		if r.doc.Failures == 0 {
			again = 0
		}
		r.doc.Failures++
		since := intent.At
		if r.doc.GapSuspectedAt != nil {
			since = *r.doc.GapSuspectedAt
		}
		r.suspectAnyway(ctx, since, "The vendor no longer knew the subscription.")
		r.write(ctx)
		return again
	}
	begins := foreign && r.doc.ForeignSince == nil && r.lease.Valid()
	why := ""
	switch {
	case begins: // published once for as long as it lasts: what waited at the vendor's may have gone with the first
		why, r.doc.ForeignSince = whyForeign, &intent.At
	case errors.Is(err, errNeverFits):
		why = whyTooBig
	case lost:
		why = whyLost
	}
	if why != "" {
		r.log.Warn("a gap is suspected. "+why, "poll_id", intent.PollID, "correlation_id",
			outcome.CorrelationID, "error", err)
		r.suspectAnyway(ctx, intent.At, why)
	}
	if err == nil {
		r.doc.ForeignSince = nil
	}
	if err != nil {
		return r.failed(ctx, err)
	}
	if r.awaitsFirstPoll || outcome.Notifications > 0 {
		r.awaitsFirstPoll = false
		r.polledSooner()
	}
	if since := r.doc.FailingSince; since != nil && r.doc.Failures > 0 {
		r.log.Info("polling works again", "failures", r.doc.Failures, "failing_since", since.UTC())
	}
	r.doc.Failures, r.doc.FailingSince, r.doc.PolledAt = 0, nil, outcome.At
	r.write(ctx)
	r.seenAfter(ctx, StateActive)
	if outcome.Notifications > 0 {
		r.log.Debug("polled", "notifications", outcome.Notifications, "inbox_seq", outcome.InboxSeq,
			"correlation_id", outcome.CorrelationID)
	}
	if outcome.Full {
		return 0
	}
	return r.pause(0)
}

// handleUnsent notes a poll for which nothing was sent, so that nothing was taken out of the queue, and returns how
// long to wait before the next try.
func (r *runner) handleUnsent(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil || r.lost || !r.adopted {
		return storeLeast
	}
	if store.InTrouble(err) || errors.Is(err, errLate) { // shows nothing about the vendor: the schedule stays as it is
		return r.blocked()
	}
	if audatex.NotAsked(err) {
		return r.notAsked(ctx, err)
	}
	r.p.Metrics.poll(audatex.OutcomeOf(err), 0)
	r.doc.Outcome = &relay.PollOutcome{At: time.Now(), Result: audatex.OutcomeOf(err).String(), Error: err.Error(),
		CorrelationID: audatex.CorrelationIDOf(err)}
	return r.failed(ctx, err)
}

// notAsked notes a poll for which nothing was sent because the vendor's host responds to nobody. That is no failure of
// the connection's, and is written once: the poll is made up for when the host responds again, in its place.
func (r *runner) notAsked(ctx context.Context, err error) time.Duration {
	r.last = pollMissed
	if r.doc.FailingSince == nil {
		now := time.Now()
		r.doc.FailingSince = &now
		r.doc.Outcome = &relay.PollOutcome{At: now, Result: audatex.OutcomeOf(err).String(), Error: err.Error()}
		r.write(ctx)
	}
	r.set(func(s *seen) { s.state = StateFailing })
	return r.pause(0)
}

// failed notes a poll that came to nothing and returns how long to wait for the next try.
func (r *runner) failed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil { // stopping
		return storeLeast
	}
	consent, ended := errors.AsType[*audatex.ConsentRequiredError](err)
	switch {
	case ended:
		r.awaitsFirstPoll = true
		return r.needsConsent(ctx, consent)
	case errors.Is(err, relay.ErrNoToken):
		r.awaitsFirstPoll = true
		r.seenAfter(ctx, StateNew)
		r.set(func(s *seen) { s.consentSince, s.noToken = time.Time{}, true })
		return r.pause(0)
	}
	r.doc.Failures++
	r.plan.until, r.doc.SoonerUntil = time.Time{}, nil
	if r.doc.FailingSince == nil {
		now := time.Now()
		r.doc.FailingSince = &now
	}
	if r.doc.Failures == 1 || r.doc.Failures%10 == 0 {
		r.log.Warn("polling fails", "error", err, "failures", r.doc.Failures, "correlation_id",
			audatex.CorrelationIDOf(err))
	}
	r.write(ctx)
	r.seenAfter(ctx, StateFailing)
	return max(r.pause(r.doc.Failures), audatex.RetryAfterOf(err))
}

// seenAfter notes for the metrics how the last poll left the connection.
func (r *runner) seenAfter(ctx context.Context, state State) {
	_, good := r.p.Session(r.config()).TokenRefreshedAt()
	if state == StateActive && good && r.doc.ConsentPublishedFor == nil { // its record has nothing else
		r.set(func(s *seen) {
			s.state, s.polledAt, s.consentSince, s.noToken = state, time.Now(), time.Time{}, false
		})
		return
	}
	token, _, err := r.p.Store.Tokens.Token(ctx, r.config().ID)
	r.set(func(s *seen) {
		s.state = state
		if state == StateActive {
			s.polledAt = time.Now()
		}
		if err == nil {
			s.consentSince, s.noToken = time.Time{}, false
			if token.ConsentRequiredSince != nil {
				s.consentSince = *token.ConsentRequiredSince
			}
		}
	})
	if err == nil {
		r.consentRestored(ctx, token)
	}
}
