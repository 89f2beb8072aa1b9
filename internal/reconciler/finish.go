package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// finish publishes the result of the run that began at a time, and ends the run. The next run
// begins if one was requested.
func (w *worker) finish(ctx context.Context, c relay.Connection, startedAt time.Time) error {
	doc := w.read()
	if doc.Run == nil || !doc.Run.StartedAt.Equal(startedAt) {
		return nil
	}
	run := *doc.Run
	if isPublished(run) {
		if err := w.publish(ctx, c, run); err != nil {
			return err
		}
	}
	err := w.update(ctx, startedAt, func(d *relay.Reconciliation) { d.Finish(w.s.r.cfg.now().UTC()) })
	if err == nil {
		w.s.r.cfg.Metrics.run(run.Causes)
		w.log.Info("open orders were read again", "causes", run.Causes, "since", run.Since, "orders", run.Read,
			"changed", run.Changed,
			"unreadable", run.Unreadable)
	}
	return err
}

// isPublished reports whether a run gets an event. A run that nobody requested, and that read
// nothing, gets none.
func isPublished(run relay.ReconcileRun) bool {
	return run.Read > 0 || slices.Contains(run.Causes, relay.CauseGap) || slices.Contains(run.Causes, relay.CauseAsked)
}

// publish publishes the event of a run, unless that was done before a crash.
func (w *worker) publish(ctx context.Context, c relay.Connection, run relay.ReconcileRun) error {
	startedAt := relay.FormatTime(run.StartedAt)
	details := map[string]any{
		"connection": c.ID, "causes": run.Causes, "since": relay.FormatTime(run.Since), "startedAt": startedAt,
		"orders": run.Read, "changed": run.Changed, "unreadable": run.Unreadable,
	}
	if len(run.Orders) > 0 { // the first of them, each as <site>.<id>
		details["unreadableOrders"] = run.Orders
	}
	message := fmt.Sprintf("The open orders of connection %s were read again, as asked for at %s by: %s. "+
		"Of %d orders %d had changed and %d could not be read.",
		c.ID, startedAt, list(run.Causes), run.Read, run.Changed, run.Unreadable)
	return w.s.r.cfg.Publisher.Once(ctx, c.EventSite(), relay.KindReconciled, c.ID, message, details,
		run.StartedAt, "startedAt")
}

// list returns the causes in words.
func list(causes []relay.ReconcileCause) string {
	words := map[relay.ReconcileCause]string{
		relay.CauseGap: "a suspected gap", relay.CauseSubscription: "a new subscription",
		relay.CauseAsked: "a request", relay.CauseNightly: "the nightly run",
	}
	texts := each.Of(causes, func(c relay.ReconcileCause) string { return words[c] })
	return strings.Join(texts, ", ")
}
