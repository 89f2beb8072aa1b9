package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

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
				detail: "Counting takes too long. Give a later since or an earlier until, or run it: a run counts by " +
					"itself."}
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
	return reply{status: http.StatusCreated, location: replayPath(doc), body: a.replayView(doc)}, nil
}

func replayPath(doc relay.Replay) string {
	return "/v1/callbacks/" + doc.Callback + "/replays/" + doc.ID
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
		return kindLimit.problem("%d replays of the callback are running. Wait until one has ended, or cancel one.",
			ofCallback)
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
	all := slices.DeleteFunc(valuesOf(entries), func(doc relay.Replay) bool {
		return doc.CallbackGeneration != cb.Generation
	})
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
