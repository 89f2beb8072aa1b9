package httpapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// countsAtOnce is how many selections are counted at the same time, and countsOfClient how many
	// of them for the callbacks of one client: each may read much of a log.
	countsAtOnce   = 4
	countsOfClient = 1
	// countPatience is how long a dry run may count. A run is counted by its owner if that takes
	// longer than runPatience.
	countPatience = 20 * time.Second
	runPatience   = 2 * time.Second
)

// plan returns the document of a replay as asked for.
func (a *API) plan(
	ctx context.Context, c caller, id string, cb relay.Callback, s ReplaySettings,
) (relay.Replay, error) {
	doc, err := a.newReplay(ctx, id, cb)
	if err != nil {
		return doc, err
	}
	doc.Filter = relay.ReplayFilter{Events: s.Events, Since: s.Since, Filter: relay.Filter{
		Sites: s.Sites, Types: s.Types, Orders: each.Of(s.Orders, strings.ToLower), OrderStatuses: s.OrderStatuses,
		ChangedOnly: s.ChangedOnly,
	}}
	doc.Filter.Statuses = each.Of(s.DeliveryStatuses, func(status ReplayableStatus) relay.DeliveryStatus {
		return relay.DeliveryStatus(status)
	})
	given := len(s.Events)+len(s.Orders)+len(s.Sites)+len(s.Types)+len(s.OrderStatuses)+len(s.DeliveryStatuses) > 0 ||
		s.ChangedOnly ||
		!s.Since.IsZero() || s.Until != ""
	if !given && !s.DryRun { // counting everything does no harm
		return doc, invalid(at("",
			"selects everything: give events, orders, sites, types, orderStatuses, changedOnly, deliveryStatuses, "+
				"since or until"))
	}
	var wrong []FieldError
	for i, site := range s.Sites {
		if !c.maySeeSite(site) {
			wrong = append(wrong, at(fmt.Sprintf("/sites/%d", i), "%q is not a site of this client", site))
		}
	}
	if wrong = append(wrong, checkFilter(s.Types, s.OrderStatuses)...); len(wrong) > 0 {
		return doc, invalid(wrong...)
	}
	if err := a.bounds(ctx, &doc, s.Until); err != nil {
		return doc, err
	}
	return doc, a.locate(ctx, c, &doc)
}

// newReplay returns the document of a replay of all that has been stored.
func (a *API) newReplay(ctx context.Context, id string, cb relay.Callback) (doc relay.Replay, err error) {
	doc = relay.Replay{
		ID: id, Callback: cb.ID, CallbackGeneration: cb.Generation, Client: cb.Client, State: relay.ReplayRunning,
		CreatedAt: time.Now().UTC(),
	}
	if doc.AttemptsThrough, err = a.c.Store.Attempts.Last(ctx, cb.ID); err != nil {
		return doc, err
	}
	doc.From, doc.Through, err = a.c.Store.Events.Bounds(ctx)
	return doc, err
}

// bounds sets which part of the logs a replay covers.
func (a *API) bounds(ctx context.Context, doc *relay.Replay, until string) (err error) {
	last := doc.Through
	if since := doc.Filter.Since; !since.IsZero() {
		if doc.From, err = a.c.Store.Events.At(ctx, logTime(since)); err != nil {
			return err
		}
	}
	switch end, err := time.Parse(time.RFC3339, until); {
	case until == "":
	case err == nil:
		behind, err := a.c.Store.Events.At(ctx, logTime(end))
		if err != nil {
			return err
		}
		doc.Through = min(behind-1, last)
	default:
		return a.readUntil(doc, until, last)
	}
	return nil
}

// replayUntil returns where a replay ends, as dry runs show it: also the attempts by which it
// selects. A restored log issues its positions again, so it contains the time of the last restore.
func (a *API) replayUntil(doc relay.Replay) string {
	numbers := []uint64{doc.Through, doc.AttemptsThrough}
	if !a.c.Restored.IsZero() {
		numbers = append(numbers, uint64(a.c.Restored.UnixMicro()))
	}
	return position('r', numbers...)
}

// readUntil sets the end that replayUntil has returned.
func (a *API) readUntil(doc *relay.Replay, until string, last uint64) error {
	fields := 2
	if !a.c.Restored.IsZero() {
		fields = 3
	}
	numbers, err := readPosition('r', until, fields)
	if err != nil {
		return invalid(at("/until", "is neither a time (as in RFC 3339) nor what a dry run answers now"))
	}
	if fields == 3 && numbers[2] != uint64(a.c.Restored.UnixMicro()) || numbers[0] > last ||
		numbers[1] > doc.AttemptsThrough {
		return invalid(at("/until", "is no longer what a dry run answers: make another"))
	}
	doc.Through, doc.AttemptsThrough = numbers[0], numbers[1]
	return nil
}

// locate sets the positions of the events that a replay names.
func (a *API) locate(ctx context.Context, c caller, doc *relay.Replay) error {
	var wrong []FieldError
	for i, id := range doc.Filter.Events {
		ev, err := a.find(ctx, c, id)
		switch {
		case isNotFound(err):
			wrong = append(wrong,
				at(fmt.Sprintf("/events/%d", i), "there is no event %q: it may have left the log", cut(id)))
		case err != nil:
			return err
		default:
			doc.Positions = append(doc.Positions, ev.Seq)
		}
	}
	if len(wrong) > 0 {
		return invalid(wrong...)
	}
	slices.Sort(doc.Positions)
	if n := len(doc.Positions); n > 0 { // nothing else has to be read
		doc.From, doc.Through = max(doc.From, doc.Positions[0]), min(doc.Through, doc.Positions[n-1])
	}
	return nil
}

// errCounting reports that counting takes longer than it may.
var errCounting = errors.New("counting takes too long")

// count counts what a replay selects.
func (a *API) count(
	ctx context.Context, doc relay.Replay, cb relay.Callback, client relay.Client, within time.Duration,
) (matched int, err error) {
	counting, cancel := store.Within(ctx, within)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() == nil && counting.Err() != nil && !errors.Is(err, store.ErrUnavailable) {
			err = errCounting
		}
	}()
	done, ok := a.counting.take(counting, doc.Client)
	if !ok {
		return 0, counting.Err()
	}
	defer done()
	if !enter(counting, a.counts) {
		return 0, counting.Err()
	}
	defer func() { <-a.counts }()
	return a.c.Replays.Count(counting, doc, cb, client)
}
