package poller

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
)

// DefaultRenewal is how often a token is refreshed that nothing is done with, as the vendor may let
// it lapse: about once a day.
const DefaultRenewal = 24 * time.Hour

// needsConsent publishes once that a vendor user must consent again. Asking again costs no request:
// the record shows it.
func (r *runner) needsConsent(ctx context.Context, consent *audatex.ConsentRequiredError) time.Duration {
	state := StateConsentRequired
	c := r.config()
	if c.Paused {
		state = StatePaused
	}
	r.seenAfter(ctx, state)
	if r.doc.ConsentPublishedFor != nil && r.doc.ConsentPublishedFor.Equal(consent.Since) {
		return r.pause(0)
	}
	if !r.lease.Valid() {
		return storeLeast
	}
	r.log.Error("the vendor refused the refresh token: nothing is polled until a user consents again", "since",
		consent.Since, "reason", consent.Reason)
	err := r.p.Operations.Once(ctx, c.EventSite(), relay.KindConsentRequired, c.ID,
		"The vendor refused the connection's refresh token. A user of the site must consent again: "+
			"by a consent link, or put a new refresh token on the connection.",
		map[string]any{"connection": c.ID, "since": relay.FormatTime(consent.Since), "reason": consent.Reason},
		consent.Since.Add(-clocksDiffer), "since")
	if err == nil {
		r.doc.ConsentPublishedFor = &consent.Since
		r.write(ctx)
	}
	return r.pause(0)
}

// clocksDiffer is how far apart the clocks of those who write the store may be.
const clocksDiffer = time.Minute

// consentRestored publishes once that a consent works again whose end was published: the record has
// tokens that the vendor gave since then.
func (r *runner) consentRestored(ctx context.Context, token relay.TokenRecord) {
	since := r.doc.ConsentPublishedFor
	if since == nil || token.ConsentRequiredSince != nil || token.AccessToken.Empty() ||
		token.Generation != r.generation || !r.lease.Valid() {
		return
	}
	c := r.config()
	r.log.Info("the connection has a consent again", "required_since", since.UTC())
	err := r.p.Operations.Once(ctx, c.EventSite(), relay.KindConsentRestored, c.ID,
		"The connection has a consent again; it goes on by itself. What was set aside for want of it is retried.",
		map[string]any{"connection": c.ID, "since": relay.FormatTime(*since)}, since.Add(-clocksDiffer), "since")
	if err != nil {
		r.log.Error("the operational event of a restored consent could not be stored yet", "error", err)
		return
	}
	r.doc.ConsentPublishedFor = nil
	if o := r.doc.Outcome; o != nil && token.RefreshedAt.After(o.At) { // of a paused connection, which is not polled
		o.Error = ""
	}
	r.write(ctx)
}

// keepToken sees to it that the token of a paused connection does not lapse, and returns when to
// look again. Neither after a long stop nor when many were paused together do they all come at
// once: each has its own moment of the day, and the vendor's budget bounds them.
func (r *runner) keepToken(ctx context.Context) time.Duration {
	c := r.config()
	token, _, err := r.p.Store.Tokens.Token(ctx, c.ID)
	switch {
	case errors.Is(err, relay.ErrNoToken), err == nil && token.Generation != r.generation:
		r.renewal = time.Time{}
		r.set(func(s *seen) { s.state, s.consentSince, s.noToken = StatePaused, time.Time{}, false })
		return r.p.Renewal
	case err != nil:
		return r.storeWait()
	}
	r.storeFailures = 0
	if since := token.ConsentRequiredSince; since != nil {
		r.needsConsent(ctx, &audatex.ConsentRequiredError{Connection: c.ID, Since: *since, Reason: token.Reason})
		return r.p.Renewal / 24
	}
	r.seenAfter(ctx, StatePaused)
	due := r.renewalOf(c, token)
	if r.doc.ConsentPublishedFor != nil && token.AccessToken.Empty() { // a new refresh token: does it work?
		due = time.Now()
	} else if late := time.Since(due); late > 0 && r.renewal.IsZero() {
		due = time.Now().Add(rand.N(r.p.Renewal/24 + 1))
	}
	if r.renewal.IsZero() || due.Before(r.renewal) {
		r.renewal = due
	}
	if wait := time.Until(r.renewal); wait > 0 {
		return min(wait, r.p.Renewal)
	}
	r.renewal = time.Time{}
	err = r.p.Session(c).RenewToken(ctx)
	consent, ended := errors.AsType[*audatex.ConsentRequiredError](err)
	switch {
	case ctx.Err() != nil:
		return storeLeast
	case err == nil:
		r.log.Debug("the token of the paused connection was refreshed")
		r.seenAfter(ctx, StatePaused)
	case ended:
		r.needsConsent(ctx, consent)
	default:
		r.log.Warn("the token of the paused connection could not be refreshed; it is tried again", "error", err)
		r.renewal = time.Now().Add(max(r.p.Renewal/48+rand.N(r.p.Renewal/24+1), audatex.RetryAfterOf(err)))
		return time.Until(r.renewal)
	}
	return r.p.Renewal / 24
}

// renewalOf is when the token of a paused connection is due: three quarters to five quarters of the
// renewal after it was used last. The jitter is a function of the record, so that it needs no
// memory.
func (r *runner) renewalOf(c relay.Connection, token relay.TokenRecord) time.Time {
	last := cmp.Or(token.RefreshedAt, token.ConsentAt, c.CreatedAt)
	h := fnv.New32a()
	_, _ = h.Write(strconv.AppendInt([]byte(c.ID), last.UnixNano(), 10))
	return last.Add(r.p.Renewal*3/4 + time.Duration(float64(r.p.Renewal/2)*float64(h.Sum32()%1000)/1000))
}
