package poller

import (
	"context"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

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
	whyForeign = "Something else was sent in the place of the vendor's queue; it is kept among the unresolved " +
		"notifications."
	whyTooBig = "An answer of the vendor's queue could not be stored, as NATS takes no message that large."
)

// suspect records a suspected gap since at, and publishes it. The caller saves the document.
func (r *runner) suspect(ctx context.Context, at time.Time, why string) error {
	r.doc.GapSuspectedAt = &at
	r.doc.ReadAgain(relay.CauseGap, at)
	r.p.Metrics.gaps.Inc()
	return r.publishGap(ctx, relay.UnpublishedGap{Since: at, Why: why})
}

// suspectAnyway is suspect for a gap that is no reason to stop: an event that cannot be stored now
// is published later, see publishUnpublishedGaps.
func (r *runner) suspectAnyway(ctx context.Context, since time.Time, why string) {
	err := r.suspect(ctx, since, why)
	if err == nil {
		return
	}
	r.log.Log(ctx, store.Level(err, slog.LevelError),
		"the operational event of a suspected gap could not be stored yet", "error", err)
	r.doc.PublishLater(relay.UnpublishedGap{Since: since, Why: why})
}

func (r *runner) publishGap(ctx context.Context, gap relay.UnpublishedGap) error {
	c := r.config()
	since := relay.FormatTime(gap.Since)
	message := gap.Why + " Notifications may have been lost at " + since +
		"; the orders of this connection that are known to be open are read again."
	details := map[string]any{"connection": c.ID, "since": since, "why": gap.Why}
	if r.doc.SubscriptionLost { // one that is lost with every poll is not published with every poll
		return r.p.Operations.Operational(ctx, c.EventSite(), relay.KindGapSuspected, c.ID, message, details)
	}
	return r.p.Operations.Once(ctx, c.EventSite(), relay.KindGapSuspected, c.ID, message,
		details, gap.Since, "since", "why")
}

// publishUnpublishedGaps publishes the gaps whose events could not be stored when they were
// suspected. If that fails again, polling goes on, and the next turn tries it again.
func (r *runner) publishUnpublishedGaps(ctx context.Context) {
	if len(r.doc.UnpublishedGaps) == 0 || !r.lease.Valid() {
		return
	}
	for len(r.doc.UnpublishedGaps) > 0 {
		if err := r.publishGap(ctx, r.doc.UnpublishedGaps[0]); err != nil {
			r.log.Log(ctx, store.Level(err, slog.LevelError),
				"the operational event of a suspected gap could not be stored yet", "error", err)
			return
		}
		r.doc.UnpublishedGaps = r.doc.UnpublishedGaps[1:]
	}
	r.doc.UnpublishedGaps = nil
	r.write(ctx)
}
