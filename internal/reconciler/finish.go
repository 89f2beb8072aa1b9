package reconciler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

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
	err := w.update(ctx, startedAt, func(d *relay.Reconciliation) { d.Finish(w.s.r.cfg.Now().UTC()) })
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

// details are the details of a run's event.
type details struct {
	Connection string                 `json:"connection"`
	Causes     []relay.ReconcileCause `json:"causes"`
	Since      string                 `json:"since"`
	StartedAt  string                 `json:"startedAt"`
	Orders     int                    `json:"orders"`
	Changed    int                    `json:"changed"`
	Unreadable int                    `json:"unreadable"`
	// UnreadableOrders are the first of them, each as <site>.<id>.
	UnreadableOrders []string `json:"unreadableOrders,omitempty"`
}

// publish publishes the event of a run, unless that was done before a crash.
func (w *worker) publish(ctx context.Context, c relay.Connection, run relay.ReconcileRun) error {
	d := details{
		Connection: c.ID, Causes: run.Causes, Since: relay.FormatTime(run.Since), StartedAt: relay.FormatTime(run.StartedAt),
		Orders: run.Read, Changed: run.Changed, Unreadable: run.Unreadable, UnreadableOrders: run.Orders,
	}
	message := fmt.Sprintf("The open orders of connection %s were read again, as asked for at %s by: %s. "+
		"Of %d orders %d had changed and %d could not be read.",
		c.ID, d.StartedAt, list(run.Causes), d.Orders, d.Changed, d.Unreadable)
	raw, err := json.Marshal(d)
	if err != nil {
		return err
	}
	var asMap map[string]any
	if err := json.Unmarshal(raw, &asMap); err != nil {
		return err
	}
	return w.s.r.cfg.Publisher.Once(ctx, siteOf(c), relay.KindReconciled, c.ID, message, asMap, run.StartedAt, "startedAt")
}

// list returns the causes in words.
func list(causes []relay.ReconcileCause) string {
	words := map[relay.ReconcileCause]string{
		relay.CauseGap: "a suspected gap", relay.CauseSubscription: "a new subscription",
		relay.CauseAsked: "a request", relay.CauseNightly: "the nightly run",
	}
	texts := make([]string, len(causes))
	for i, c := range causes {
		texts[i] = words[c]
	}
	return strings.Join(texts, ", ")
}

// siteOf returns the site that an operational event about a connection belongs to.
func siteOf(c relay.Connection) string {
	if sites := c.SiteNames(); len(sites) == 1 {
		return sites[0]
	}
	return relay.NoSite
}
