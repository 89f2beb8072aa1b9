package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// retryMost is how many notifications one request retries, retryChunk how many of them between
	// two checks of the time.
	retryMost  = 100
	retryChunk = 10
	// retryWithin is the time after which a request begins no further retries, retryBound the limit
	// for those begun. Each waits for its turn in the vendor's budget.
	retryWithin = 15 * time.Second
	retryBound  = 40 * time.Second
)

// retryManyUnresolved implements POST /v1/unresolved/retry.
func (a *API) retryManyUnresolved(ctx context.Context, c caller, which UnresolvedRetry) (reply, error) {
	waiting, err := a.toRetry(ctx, which)
	if err != nil {
		return reply{}, err
	}
	result, err := a.retryMany(ctx, waiting, cmp.Or(which.Limit, retryMost))
	if err != nil {
		return reply{}, err
	}
	a.logOf(c).Info("unresolved notifications were retried by an operator", "reason", which.Reason,
		"connection", which.Connection, "matched", result.Matched, "taken", result.Taken, "resolved", result.Resolved)
	return reply{body: result}, nil
}

// toRetry returns the matching unresolved notifications after a cursor, in the order of their inbox
// entries.
func (a *API) toRetry(ctx context.Context, which UnresolvedRetry) ([]store.Entry[store.Aside], error) {
	if err := await(ctx, a.asides.Ready()); err != nil {
		return nil, err
	}
	var all []store.Entry[store.Aside]
	pass := chosen(which.Reason, which.Sites)
	for _, key := range a.asides.Keys(which.Connection) {
		if e, ok := a.asides.Get(key); ok && pass(e.Value) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, byEntry)
	if which.After == "" {
		return all, nil
	}
	fields, err := readToken('u', which.After, 2)
	if err != nil {
		return nil, invalid(at("/after", "is not a cursor of this list"))
	}
	last := store.Entry[store.Aside]{Key: fields[1]}
	if last.Value.InboxEntry, err = strconv.ParseUint(fields[0], 36, 64); err != nil {
		return nil, invalid(at("/after", "is not a cursor of this list"))
	}
	from, found := slices.BinarySearchFunc(all, last, byEntry)
	if found {
		from++
	}
	return all[from:], nil
}

func byEntry(a, b store.Entry[store.Aside]) int {
	return cmp.Or(cmp.Compare(a.Value.InboxEntry, b.Value.InboxEntry), strings.Compare(a.Key, b.Key))
}

// retryMany retries the first of the notifications, up to the limit. It ends early if the time is
// over, or the vendor or the store cannot be reached.
func (a *API) retryMany(ctx context.Context, waiting []store.Entry[store.Aside], limit int) (UnresolvedRetried, error) {
	result := UnresolvedRetried{Matched: len(waiting), Failed: []UnresolvedFailure{}}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, retryBound)
	defer cancel()
	for result.Taken < min(limit, len(waiting)) && time.Since(began) < retryWithin {
		chunk := waiting[result.Taken:min(result.Taken+retryChunk, limit, len(waiting))]
		chunk = chunk[:withinBytes(chunk, a.unresolvedBytes)]
		found, err := a.unresolved(ctx, chunk)
		if err != nil {
			return result, err
		}
		stop := false
		a.c.Resolver.RetryAll(ctx, valuesOf(found), func(id string, outcome relay.RetryOutcome, err error) {
			switch outcome {
			case relay.RetryResolved:
				result.Resolved++
			case relay.RetryNotFound: // resolved or given up in the meantime
			case relay.RetryRefused:
				result.failed(id, asProblem(http.MethodPost, stillUnresolved(err)))
			default: // relay.RetryUnavailable
				p := asProblem(http.MethodPost, retryLater(err))
				result.failed(id, p)
				stop = stop || p.kind.slug != kindConsent.slug
			}
		})
		result.Taken += len(chunk)
		if stop {
			break
		}
	}
	if result.Taken > 0 && result.Taken < len(waiting) {
		last := waiting[result.Taken-1]
		result.Next = token('u', strconv.FormatUint(last.Value.InboxEntry, 36), last.Key)
	}
	return result, nil
}

func (r *UnresolvedRetried) failed(id string, p *problem) {
	r.Failed = append(r.Failed, UnresolvedFailure{Id: id, Problem: p.kind.slug, Detail: p.detail})
}
