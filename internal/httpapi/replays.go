package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Replays is what the API needs of the part that replays.
type Replays interface {
	// Count returns how many events a replay would deliver to a callback of a client.
	Count(ctx context.Context, of relay.Replay, cb relay.Callback, client relay.Client) (int, error)
}

const (
	// maxRunningReplays is how many replays of a callback may be under way, maxEndedReplays how many
	// ended ones of a callback are kept. What a client may have is among its limits.
	maxRunningReplays = 10
	maxEndedReplays   = 100
	// countsAtOnce is how many selections are counted at the same time, and countsOfClient how many
	// of them for the callbacks of one client: each may read much of a log.
	countsAtOnce   = 4
	countsOfClient = 1
	// countPatience is how long a dry run may count. A run is counted by its owner if that takes
	// longer than runPatience.
	countPatience = 20 * time.Second
	runPatience   = 2 * time.Second
)

// createReplay implements POST /v1/callbacks/{id}/replays.
func (a *API) createReplay(
	ctx context.Context, c caller, id Id, _ CreateReplayParams, settings ReplaySettings,
) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, countPatience+patience)
	defer cancel()
	cb, client, err := a.replayable(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	done, err := a.reads.soon(ctx, c.key.ID) // it reads much, as a read may
	if err != nil {
		return reply{}, err
	}
	defer done()
	doc, err := a.plan(ctx, c, exchangeOf(ctx).maker.id("replay"), cb, settings)
	if err != nil {
		return reply{}, err
	}
	if settings.DryRun {
		matched, err := a.count(ctx, doc, cb, client, countPatience)
		if errors.Is(err, errCounting) {
			err = &problem{kind: kindBusy, retryAfter: 5 * time.Second,
				detail: "Counting takes too long. Give a later since or an earlier until, or run it: a run counts by itself."}
		}
		return reply{body: ReplayPlan{Matched: matched, Until: a.replayUntil(doc)}}, err
	}
	if err := halted(cb); err != nil {
		return reply{}, err
	}
	if matched, err := a.count(ctx, doc, cb, client, runPatience); err == nil {
		doc.Matched = &matched
	}
	if doc, err = a.makeReplay(ctx, doc); err != nil {
		return reply{}, err
	}
	return reply{
		status: http.StatusCreated, location: "/v1/callbacks/" + cb.ID + "/replays/" + doc.ID, body: a.replayView(doc),
	}, nil
}

// listReplays implements GET /v1/callbacks/{id}/replays.
func (a *API) listReplays(ctx context.Context, c caller, id Id, params ListReplaysParams) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	all, err := a.replaysOf(ctx, cb)
	if err != nil {
		return reply{}, err
	}
	if params.After != "" {
		fields, err := readToken('R', params.After, 2)
		if err != nil {
			return reply{}, err
		}
		micros, err := strconv.ParseInt(fields[0], 36, 64)
		if err != nil {
			return reply{}, badParameter("after", "is not a cursor of this list")
		}
		last := relay.Replay{ID: fields[1], CreatedAt: time.UnixMicro(micros)}
		all = slices.DeleteFunc(all, func(doc relay.Replay) bool { return newestFirst(doc, last) <= 0 })
	}
	list, limit := ReplayList{Items: []Replay{}}, cmp.Or(params.Limit, defaultLimit)
	for i, doc := range all[:min(limit, len(all))] {
		list.Items = append(list.Items, a.replayView(doc))
		if i == limit-1 && len(all) > limit {
			list.Next = token('R', strconv.FormatInt(doc.CreatedAt.UnixMicro(), 36), doc.ID)
		}
	}
	return reply{body: list}, nil
}

// getReplay implements GET /v1/callbacks/{id}/replays/{replayId}.
func (a *API) getReplay(ctx context.Context, c caller, id Id, replayID ReplayId) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	doc, _, err := a.c.Store.Replays.Get(ctx, store.ReplayKey(cb.ID, replayID))
	if err == nil && doc.CallbackGeneration != cb.Generation {
		err = notFound()
	}
	return reply{body: a.replayView(doc)}, err
}

// deleteReplay implements DELETE /v1/callbacks/{id}/replays/{replayId}.
func (a *API) deleteReplay(ctx context.Context, c caller, id Id, replayID ReplayId) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	key, cancelled := store.ReplayKey(cb.ID, replayID), false
	edit := func(doc relay.Replay) (relay.Replay, error) {
		if doc.CallbackGeneration != cb.Generation {
			return doc, notFound()
		}
		cancelled = doc.Running()
		doc.End(relay.ReplayCancelled, "Cancelled by a caller.", time.Now())
		return doc, nil
	}
	doc, revision, err := replace(ctx, a.c.Store.Replays, "cancel replay", key, "", edit, nil,
		func(doc relay.Replay, revision uint64) (uint64, error) {
			if !cancelled {
				return revision, a.c.Store.Replays.Delete(ctx, key, revision)
			}
			return a.c.Store.Replays.UpdateFor(ctx, key, doc, revision, a.c.Store.Topology().Retention)
		})
	if err != nil {
		return reply{}, err
	}
	if !cancelled {
		a.replays.Removed(key, revision)
		return reply{status: http.StatusNoContent}, nil
	}
	a.replays.Put(key, doc, revision)
	return reply{body: a.replayView(doc)}, nil
}

// replayable returns a callback that the caller may change, and its client.
func (a *API) replayable(ctx context.Context, c caller, id string) (relay.Callback, relay.Client, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return cb, relay.Client{}, err
	}
	client, _, err := a.c.Store.Clients.Get(ctx, cb.Client)
	if errors.Is(err, store.ErrNotFound) || err == nil && !cb.BelongsTo(client) {
		err = notFound()
	}
	return cb, client, err
}

// halted returns a problem for a callback to which nothing is delivered.
func halted(cb relay.Callback) error {
	switch {
	case cb.Disabled != nil:
		return kindConflict.problem("The callback is disabled. Resume it first.")
	case cb.Paused:
		return kindConflict.problem("The callback is paused. Change it to \"paused\": false first.")
	}
	return nil
}

// plan returns the document of a replay as asked for.
func (a *API) plan(ctx context.Context, c caller, id string, cb relay.Callback, s ReplaySettings) (relay.Replay, error) {
	doc, err := a.newReplay(ctx, id, cb)
	if err != nil {
		return doc, err
	}
	doc.Filter = relay.ReplayFilter{Events: s.Events, Since: s.Since, Filter: relay.Filter{
		Sites: s.Sites, Types: s.Types, Orders: each.Of(s.Orders, strings.ToLower), OrderStatuses: s.OrderStatuses, ChangedOnly: s.ChangedOnly,
	}}
	doc.Filter.Statuses = each.Of(s.DeliveryStatuses, func(status ReplayableStatus) relay.DeliveryStatus {
		return relay.DeliveryStatus(status)
	})
	if len(s.Events)+len(s.Orders)+len(s.Sites)+len(s.Types)+len(s.OrderStatuses)+len(s.DeliveryStatuses) == 0 && s.Since.IsZero() {
		return doc, invalid(at("", "selects everything: give events, orders, sites, types, orderStatuses, deliveryStatuses or since"))
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

// replayUntil returns where a replay ends, as dry runs answer it: also the attempts by which it
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
	if fields == 3 && numbers[2] != uint64(a.c.Restored.UnixMicro()) || numbers[0] > last || numbers[1] > doc.AttemptsThrough {
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
			wrong = append(wrong, at(fmt.Sprintf("/events/%d", i), "there is no event %q: it may have left the log", cut(id)))
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

// makeReplay stores a replay, if its callback and its client may have one more under way.
func (a *API) makeReplay(ctx context.Context, doc relay.Replay) (relay.Replay, error) {
	done, ok := a.clients.take(ctx, doc.Client)
	if !ok {
		return doc, ctx.Err()
	}
	defer done()
	if err := a.roomForReplay(ctx, doc); err != nil {
		return doc, err
	}
	key := store.ReplayKey(doc.Callback, doc.ID)
	revision, err := a.c.Store.Replays.Create(ctx, key, doc)
	if errors.Is(err, store.ErrConflict) { // only the same request can have made this id before
		doc, revision, err = a.c.Store.Replays.GetAtLeader(ctx, key)
	}
	if err == nil {
		a.replays.Put(key, doc, revision)
	}
	return doc, err
}

// roomForReplay returns a problem if there may not be one more replay, and removes ended ones beyond
// those that are kept.
func (a *API) roomForReplay(ctx context.Context, doc relay.Replay) error {
	if err := await(ctx, a.replays.Ready()); err != nil {
		return err
	}
	var ended []store.Entry[relay.Replay]
	ofCallback, ofClient := 0, 0
	for _, key := range a.replays.Keys(doc.Client) {
		e, there := a.replays.Get(key)
		of := e.Value.Callback == doc.Callback && e.Value.CallbackGeneration == doc.CallbackGeneration
		switch {
		case !there || e.Value.ID == doc.ID:
		case e.Value.Running():
			ofClient++
			if of {
				ofCallback++
			}
		case of:
			ended = append(ended, e)
		}
	}
	if ofCallback >= maxRunningReplays {
		return kindLimit.problem("%d replays of the callback are running. Wait until one has ended, or cancel one.", ofCallback)
	}
	owner, _ := a.c.Keys.Client(doc.Client)
	if limit := owner.Allowed().Replays; ofClient >= limit {
		return full("running replays", ofClient, limit)
	}
	slices.SortFunc(ended, func(x, y store.Entry[relay.Replay]) int { return newestFirst(x.Value, y.Value) })
	for _, e := range ended[min(len(ended), maxEndedReplays-1):] {
		if err := a.c.Store.Replays.Delete(ctx, e.Key, e.Revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
		a.replays.Removed(e.Key, e.Revision)
	}
	return nil
}

// removeReplays removes the replays of a callback that was removed. Those that it misses are
// removed by the owner of the callback's shard.
func (a *API) removeReplays(ctx context.Context, cb relay.Callback) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	entries, err := a.c.Store.Replays.All(ctx, store.ReplaysOf(cb.ID), a.unreadable("replay"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Value.CallbackGeneration == cb.Generation && a.c.Store.Replays.Delete(ctx, e.Key, 0) == nil {
			a.replays.Removed(e.Key, e.Revision)
		}
	}
}

// replaysOf returns the replays of a callback, newest first.
func (a *API) replaysOf(ctx context.Context, cb relay.Callback) ([]relay.Replay, error) {
	entries, err := a.c.Store.Replays.All(ctx, store.ReplaysOf(cb.ID), a.unreadable("replay"))
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(valuesOf(entries), func(doc relay.Replay) bool { return doc.CallbackGeneration != cb.Generation })
	slices.SortFunc(all, newestFirst)
	return all, nil
}

func newestFirst(x, y relay.Replay) int {
	return cmp.Or(cmp.Compare(y.CreatedAt.UnixMicro(), x.CreatedAt.UnixMicro()), strings.Compare(x.ID, y.ID))
}

// replayView returns a replay as the API shows it.
func (a *API) replayView(doc relay.Replay) Replay {
	view := Replay{
		Id: doc.ID, Callback: doc.Callback, State: ReplayState(doc.State), Reason: doc.Reason, Matched: doc.Matched,
		Delivered: doc.Progress.Delivered, Failed: doc.Progress.Failed, Skipped: doc.Progress.Skipped,
		Events: doc.Filter.Events, Orders: doc.Filter.Orders, Sites: doc.Filter.Sites, Types: doc.Filter.Types,
		OrderStatuses: doc.Filter.OrderStatuses, ChangedOnly: doc.Filter.ChangedOnly,
		Since: doc.Filter.Since, Until: a.replayUntil(doc), CreatedAt: doc.CreatedAt, EndedAt: doc.EndedAt,
	}
	for _, status := range doc.Filter.Statuses {
		view.DeliveryStatuses = append(view.DeliveryStatuses, ReplayableStatus(status))
	}
	return view
}
