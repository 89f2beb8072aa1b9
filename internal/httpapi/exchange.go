package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// writeTimeout is how long the caller may take to read a response. It is set per response, because
// the server's own timeout would end long polls.
const writeTimeout = 30 * time.Second

// exchange holds the state of one request while it is served.
type exchange struct {
	id      string
	peer    netip.Addr // where the connection comes from
	remote  netip.Addr // where the request came from, before the trusted proxies
	op      operation
	caller  caller
	maker   maker
	problem *problem
	waited  bool // for an event

	request, response http.Header // for what neither parameters nor a reply hold
}

// remoteName returns the address for the log.
func (x *exchange) remoteName() string {
	if !x.remote.IsValid() {
		return "unknown"
	}
	return x.remote.String()
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

var requestID = regexp.MustCompile(`^[0-9A-Za-z-]{8,64}$`)

// requestID returns the id that the caller chose, or a new one. The id is logged and returned, so
// it is not accepted if it is part of the caller's credentials, or an admin token.
func (a *API) requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if !requestID.MatchString(id) {
		return relay.NewID()
	}
	for _, header := range r.Header.Values("Authorization") {
		if strings.Contains(header, id) {
			return relay.NewID()
		}
	}
	if _, ok := a.c.Admins.Lookup(id); ok {
		return relay.NewID()
	}
	return id
}

// begin gives each request its id, writes its log line at the end, and turns a panic into a
// problem.
func (a *API) begin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		x := &exchange{
			id: a.requestID(r), peer: ingress.PeerAddr(r), remote: a.c.Proxies.ClientAddr(r),
			request: r.Header, response: ww.Header(),
		}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		// HEAD is GET without a body (RFC 9110, section 9.3.2), which the server leaves out itself.
		if r.Method == http.MethodHead {
			r.Method = http.MethodGet
		}
		// Routed as received: an escaped slash within a segment stays there, and nothing is
		// unescaped twice.
		r.URL.RawPath = r.URL.EscapedPath()
		x.response.Set("X-Request-Id", x.id)
		x.response.Set("Cache-Control", "no-store")
		x.response.Set("X-Content-Type-Options", "nosniff")
		_ = http.NewResponseController(w).SetReadDeadline(started.Add(a.c.readTimeout)) // takeBody lifts it
		defer func() {
			if v := recover(); v != nil {
				if err, _ := v.(error); errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				cause := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
				if ww.Status() == 0 {
					a.fail(ww, r, &problem{kind: kindInternal, cause: cause})
				} else {
					x.problem = &problem{kind: kindInternal, cause: cause}
				}
			}
			took := time.Since(started)
			a.metrics.served(x, ww.Status(), took)
			a.log(r, x, ww, took)
		}()
		next.ServeHTTP(ww, r)
	})
}

// log writes the access line. It includes what went wrong on our side; that is logged only here.
func (a *API) log(r *http.Request, x *exchange, w middleware.WrapResponseWriter, took time.Duration) {
	route := chi.RouteContext(r.Context()).RoutePattern()
	if route == "" && w.Status() == http.StatusNotFound {
		a.logUnknown(r, x)
		return
	}
	level := slog.LevelInfo
	if x.op.access == accessPublic {
		level = slog.LevelDebug // probes come every few seconds
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("route", route),
		slog.Int("status", w.Status()), slog.Duration("duration", took.Round(time.Microsecond)),
		slog.String("request_id", x.id), slog.String("remote", x.remoteName()),
	}
	attrs = append(attrs, x.caller.attrs()...)
	if x.op.changes && w.Status() < 400 { // what was changed; the names in the path are valid
		attrs = append(attrs, slog.String("path", r.URL.EscapedPath()))
	}
	if r.Context().Err() != nil { // the caller is gone: a problem is not ours
		attrs = append(attrs, slog.Bool("gone", true))
	} else if p := x.problem; p != nil {
		attrs = append(attrs, slog.String("problem", p.kind.slug))
		if p.kind.status >= 500 {
			level = slog.LevelWarn
			if p.kind.slug == kindInternal.slug {
				level = slog.LevelError
			}
			attrs = append(attrs, slog.String("error", p.Error()))
		}
	}
	a.c.Log.LogAttrs(r.Context(), level, "http", attrs...)
}

// passing returns a middleware that hands on a request that passes all checks, in their order.
func (a *API) passing(checks ...func(http.ResponseWriter, *http.Request) error) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, check := range checks {
				if err := check(w, r); err != nil {
					a.fail(w, r, err)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// identify finds the operation after the router has chosen a route.
func (a *API) identify(_ http.ResponseWriter, r *http.Request) error {
	op, ok := a.contract.operations[r.Method+" "+chi.RouteContext(r.Context()).RoutePattern()]
	if !ok { // the contract has no such route; a test compares the two
		return fmt.Errorf("no operation for %s %s", r.Method, r.URL.Path)
	}
	exchangeOf(r.Context()).op = op
	return nil
}

// authorize refuses changes by keys that may only read, and everything about keys by those that are
// not of the role manage, no matter what is named. The refusal reveals nothing about what exists,
// and comes before the body is read.
func (a *API) authorize(_ http.ResponseWriter, r *http.Request) error {
	switch x := exchangeOf(r.Context()); {
	case x.op.access == accessManage:
		return x.caller.mayManage()
	case x.op.access == accessKeys && x.op.changes:
		return x.caller.mayChange()
	}
	return nil
}

// methodNotAllowed responds with 405 and the allowed methods, or with 404 if there are none.
func (a *API) methodNotAllowed(routes chi.Routes) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		methods := []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete}
		for _, method := range methods {
			if routes.Match(chi.NewRouteContext(), method, r.URL.RawPath) {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 { // the router checks for unknown methods before the path
			a.fail(w, r, notFound())
			return
		}
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		a.fail(w, r, &problem{kind: kindMethod})
	}
}

// reply is the response of an operation.
type reply struct {
	status      int // 200 if zero
	revision    uint64
	location    string // where what was made can be read
	made        string // the path of what was made, for the audit; empty: location
	contentType string // application/json if empty
	body        any    // a []byte is sent as it is; nil: no body
}

// The time limit for all store accesses of one operation together: usually, and while the store is
// known to fail. Even then requests must go on, or nobody would notice that it is back.
const (
	patience        = 4 * time.Second
	patienceTrouble = 1500 * time.Millisecond
)

// patient returns a context with the store's time limit, unless the contract gives the operation
// its own limit.
func (a *API) patient(r *http.Request) (context.Context, context.CancelFunc) {
	if exchangeOf(r.Context()).op.ownTimeout {
		return r.Context(), func() {}
	}
	if a.c.Store.Health().Trouble().Since.IsZero() {
		return context.WithTimeout(r.Context(), patience)
	}
	return context.WithTimeout(r.Context(), patienceTrouble)
}

// inTurn runs an operation, and limits how many reads of one key run at the same time. The feed
// takes its turns itself, because it gives them back while it waits. Operations that wait for the
// vendor take a place among the waiting requests instead.
func (a *API) inTurn(
	ctx context.Context, op operation, peer netip.Addr, c caller,
	run func(ctx context.Context, c caller) (reply, error),
) (reply, error) {
	if (op.access == accessKeys || op.access == accessManage) && !op.changes && !op.ownTimeout {
		done, err := a.reads.soon(ctx, c.key.ID)
		if err != nil {
			return reply{}, err
		}
		defer done()
	}
	if op.waits {
		done, err := a.waiting.take(c, peer)
		if err != nil {
			return reply{}, err
		}
		defer done()
	}
	return run(ctx, c)
}

// do runs an operation and sends its response or its problem. The caller is checked again before
// the operation, because the request's body may have taken long to arrive, and before the response
// of a read, because that may have taken long to make.
func (a *API) do(w http.ResponseWriter, r *http.Request, operation func(ctx context.Context, c caller) (reply, error)) {
	ctx, cancel := a.patient(r)
	defer cancel()
	x := exchangeOf(r.Context())
	c, err := a.present(x.caller)
	run := func() (response, error) {
		answer, err := a.inTurn(ctx, x.op, x.peer, c, operation)
		if err != nil {
			return response{}, err
		}
		return answer.encode()
	}
	var answer response
	if err == nil {
		answer, err = a.audited(ctx, r, c, func() (response, error) {
			if key := x.idempotencyKey(r); key != "" {
				return a.once(ctx, r, c, key, run)
			}
			x.maker = newMaker()
			return run()
		})
	}
	if err == nil && r.Method == http.MethodGet {
		_, err = a.present(c)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	answer.send(w)
}

// response is an encoded reply.
type response struct {
	store.StoredAnswer
	replayed bool // it was sent before, to the same request
}

// encode encodes the reply.
func (answer reply) encode() (response, error) {
	var r response
	r.Status, r.Location, r.Made = cmp.Or(answer.status, http.StatusOK), answer.location, answer.made
	if answer.revision > 0 {
		r.ETag = etag(answer.revision)
	}
	if answer.body == nil {
		return r, nil
	}
	r.ContentType = cmp.Or(answer.contentType, "application/json")
	var raw bool
	if r.Body, raw = answer.body.([]byte); raw {
		return r, nil
	}
	var err error
	if r.Body, err = relay.Encode(answer.body); err != nil {
		return response{}, fmt.Errorf("encode the answer: %w", err)
	}
	return r, nil
}

func (answer response) send(w http.ResponseWriter) {
	for name, value := range map[string]string{"ETag": answer.ETag, "Location": answer.Location} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	if answer.replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	if answer.ContentType == "" {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		w.WriteHeader(answer.Status)
		return
	}
	write(w, answer.Status, answer.ContentType, answer.Body)
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller may be gone
}
