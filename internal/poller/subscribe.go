package poller

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
)

// Topic is what is subscribed to unless Config names another topic.
const Topic = audatex.DefaultTopic

// subscribedSlack is how far the vendor's clock may be from ours when it reports the time of a subscription.
const subscribedSlack = 10 * time.Minute

// subscribe makes notifications queue up, or takes the subscription there is. It returns false and
// a wait when it could not.
//
// Before the vendor is asked the document records that: a subscription that is found later is ours
// if an earlier try of ours ended without a response and it was made since then. Of any other nobody
// here has a record: another program may be reading the same queue.
func (r *runner) subscribe(ctx context.Context, c relay.Connection) (time.Duration, bool) {
	unclear := r.doc.SubscribingSince // of an earlier try
	if unclear == nil {
		now := time.Now().UTC()
		r.doc.SubscribingSince = &now
		if err := r.save(ctx); err != nil {
			return r.handleUnsent(ctx, err), false
		}
	}
	sub, existed, err := r.p.Session(c).EnsureSubscription(ctx, r.p.Topic)
	if err != nil {
		if unclear == nil && !mayHaveSubscribed(err) {
			r.doc.SubscribingSince = nil
		}
		return r.handleUnsent(ctx, err), false
	}
	adopted := existed
	if at, ok := audatex.ParseTime(sub.CreatedAt, nil); existed && unclear != nil && ok &&
		at.After(unclear.Add(-subscribedSlack)) {
		adopted = false
	}
	r.doc.SubscriptionID, r.doc.SubscriptionAdopted, r.doc.AdoptionPublished, r.doc.SubscribingSince =
		sub.SubscriptionID, adopted, false, nil
	r.doc.Topic = r.p.Topic
	if r.doc.SubscriptionLost || !existed { // what happened before was queued for nobody
		r.doc.ReadAgain(relay.CauseSubscription, r.unsubscribedSince())
	}
	r.doc.SubscriptionLost = false
	if err := r.save(ctx); err != nil {
		return r.handleUnsent(ctx, err), false
	}
	r.log.Info("subscribed to "+r.p.Topic, "subscription", sub.SubscriptionID, "adopted", adopted)
	return 0, true
}

// unsubscribedSince is since when the connection may have had no subscription: the last poll that
// found one, else its beginning.
func (r *runner) unsubscribedSince() time.Time {
	if r.doc.SubscriptionLost && r.doc.GapSuspectedAt != nil {
		return *r.doc.GapSuspectedAt
	}
	return r.config().CreatedAt
}

// mayHaveSubscribed reports whether a try that failed may have made the subscription nevertheless.
func mayHaveSubscribed(err error) bool {
	var e *audatex.Error
	return errors.As(err, &e) && e.Operation == audatex.OpSubscribe && (e.AnswerLost || e.Status >= 500)
}

// publishAdopted publishes once that a subscription was found that nobody here has a record of
// making. What keeps that from being stored keeps nothing from being polled: it is tried again
// before the next poll.
func (r *runner) publishAdopted(ctx context.Context) {
	if !r.doc.SubscriptionAdopted || r.doc.AdoptionPublished || !r.lease.Valid() {
		return
	}
	c := r.config()
	r.log.Warn("the vendor had a subscription already that this relay has no record of making; "+
		"if another program reads it, each takes what the other never sees",
		"subscription", r.doc.SubscriptionID, "topic", r.p.Topic)
	err := r.p.Operations.Once(ctx, c.EventSite(), relay.KindSubscriptionAdopted, c.ID,
		"The vendor already had a subscription of this connection that the relay has no record of making. If another "+
			"program reads the same queue, each takes "+
			"notifications that the other never sees: stop the other one.",
		map[string]any{"connection": c.ID, "subscription": r.doc.SubscriptionID, "topic": r.p.Topic},
		time.Time{}, "subscription")
	if err != nil {
		r.log.Error("the operational event of an adopted subscription could not be stored yet", "error", err)
		return
	}
	r.doc.AdoptionPublished = true
	r.write(ctx)
}

// logOtherTopic logs, once for each start, that the connection reads another topic than the setting
// names. It keeps that one: what waits in its queue would be lost with the subscription, and a
// setting with a slip in it must not do that to every connection.
func (r *runner) logOtherTopic() {
	if r.topicLogged || r.doc.Topic == "" || strings.EqualFold(r.doc.Topic, r.p.Topic) {
		return
	}
	r.topicLogged = true
	r.log.Warn("the connection keeps its subscription, which is to another topic than RELAY_AUDATEX_TOPIC; "+
		"to change it, remove the connection with ?unsubscribe=true, which loses what waits at the vendor, and "+
		"create it again",
		"subscribed_to", r.doc.Topic, "setting", r.p.Topic)
}
