package httpapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/audit"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// auditPatience is how long a request may wait until it is recorded how it ended. Its response is
// ready by then.
const auditPatience = time.Second

// audited runs a request that changes something. Before that it stores who requests what; if that
// fails, nothing is run. Afterwards it stores how the request ended.
func (a *API) audited(
	ctx context.Context, r *http.Request, c caller, run func() (response, error),
) (response, error) {
	x := exchangeOf(r.Context())
	if !x.op.changes || x.op.access == accessPublic {
		return run()
	}
	record := relay.AuditRecord{
		Admin: c.admin, Client: c.client.ID, Generation: c.client.Generation, Key: c.key.ID, Operation: x.op.id,
		Method: r.Method, Path: r.URL.EscapedPath(), Request: x.id, Remote: x.remoteName(), At: time.Now().UTC(),
	}
	if c.isAdmin() {
		record.For = r.URL.Query().Get("client")
	}
	position, err := a.audit.Begin(ctx, record)
	if err != nil {
		return response{}, unrecorded(err)
	}
	answer, err := run()
	a.recordEnd(ctx, r, c, position, answer, err)
	return answer, err
}

// unrecorded returns the problem for a change that was not tried, as it could not be recorded.
func unrecorded(err error) error {
	p := asProblem(http.MethodPost, err)
	if store.InTrouble(err) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnclear) {
		p.kind, p.retryAfter = kindStore, 5*time.Second
	}
	p.detail = "Nothing was changed: it could not be recorded who requested the change."
	return p
}

// recordEnd stores how a request ended. If that fails, the log of changes has only its beginning.
func (a *API) recordEnd(
	ctx context.Context, r *http.Request, c caller, position uint64, answer response, failed error,
) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditPatience) // even if the caller has gone
	defer cancel()
	x := exchangeOf(r.Context())
	ended := relay.AuditRecord{
		Client: c.client.ID, Generation: c.client.Generation, Request: x.id, At: time.Now().UTC(),
		Status: answer.Status, Made: cmp.Or(answer.Location, answer.Made), Replayed: answer.replayed,
	}
	if failed != nil {
		p := asProblem(r.Method, failed)
		ended.Status, ended.Problem = p.kind.status, p.kind.slug
	}
	if err := a.audit.End(ctx, position, ended); err != nil {
		a.logOf(c).Log(ctx, store.Level(err, slog.LevelWarn), "it could not be recorded how a change ended",
			"operation", x.op.id, "request_id", x.id, "status", ended.Status, "error", err)
	}
}

// listAudit implements GET /v1/audit.
func (a *API) listAudit(ctx context.Context, c caller, params ListAuditParams) (reply, error) {
	at, err := readPosition('a', params.After, 1)
	if err != nil {
		return reply{}, err
	}
	q := audit.Query{
		Client: params.Client, Limit: cmp.Or(params.Limit, defaultLimit), Before: at[0],
		Since: logTime(params.Since), Until: logTime(params.Until),
	}
	if !c.isAdmin() {
		if params.Client != "" && params.Client != c.client.ID {
			return reply{}, notFound()
		}
		q.Client, q.Generation = c.client.ID, c.client.Generation
	}
	page, err := a.audit.Page(ctx, q)
	if err != nil {
		return reply{}, err
	}
	a.limits.charge(c.key.ID, page.Scanned-len(page.Entries))
	list := AuditList{Items: each.Of(page.Entries, auditView)}
	if page.Next > 0 {
		list.Next = position('a', page.Next)
	}
	return reply{body: list}, nil
}

func auditView(e audit.Entry) AuditEntry {
	view := AuditEntry{
		At: e.At, Admin: e.Admin, Client: e.Client, Key: e.Key, Operation: e.Operation, Method: e.Method, Path: e.Path,
		ForClient: e.For, RequestId: e.Request, Remote: e.Remote,
	}
	if e.Ended != nil {
		view.Outcome = AuditOutcome{
			At: e.Ended.At, Status: e.Ended.Status, Problem: e.Ended.Problem, Made: e.Ended.Made,
			Replayed: e.Ended.Replayed,
		}
	}
	return view
}
