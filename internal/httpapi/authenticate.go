package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/ingress"
)

// authenticate identifies the caller. For keys, operations that need the admin token do not exist.
// The token is checked first, which is cheap; only failures are counted, and slowed down once an
// address has used up its own.
func (a *API) authenticate(w http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r.Context())
	if x.op.access == accessPublic {
		return nil
	}
	token, failure := bearer(r)
	if failure != "" {
		return a.refusal(w, r, failure)
	}
	if name, ok := a.c.Admins.Lookup(token); ok {
		x.caller = caller{admin: name}
		return nil
	}
	id, ok := access.KeyID(token)
	if !ok {
		return a.refusal(w, r, failureToken)
	}
	select {
	case <-a.c.Keys.Ready():
	default:
		return starting()
	}
	x.caller.client, x.caller.key, ok = a.c.Keys.Lookup(id, token)
	switch {
	case !ok:
		return a.refusal(w, r, failureKey)
	case !a.limits.allow(id):
		return &problem{
			kind: kindTooMany, retryAfter: time.Second,
			detail: fmt.Sprintf("The key may make %v requests a second, and %d at once.", a.c.ratePerSecond, a.c.burst),
		}
	case x.op.access == accessAdmin:
		return notFound()
	}
	return nil
}

// bearer returns the token of a request, or why there is none. There is at most one such header,
// see checkHeaders.
func bearer(r *http.Request) (token string, failure string) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", failureMissing
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", failureMalformed
	}
	return token, ""
}

// The reasons of a failed authentication, used as the metric's label.
const (
	failureMissing   = "missing"   // there is no Authorization header
	failureMalformed = "malformed" // it is not a single bearer token
	failureToken     = "token"     // the token is not the admin token, and does not have the form of a key
	failureKey       = "key"       // the key is unknown, revoked or expired
)

var failureDetails = map[string]string{
	failureMissing:   "Authorization: Bearer is missing.",
	failureMalformed: "Authorization must be one header: Bearer and one token.",
	failureToken:     "The token is not valid.",
	failureKey:       "The token is not valid.",
}

// failures counts failed authentications and slows down callers who keep failing.
type failures struct {
	guesses *ingress.Guesses
	counts  map[string]prometheus.Counter
}

func newFailures(m *ingress.Metrics, burst int) failures {
	f := failures{guesses: ingress.NewGuesses(burst), counts: map[string]prometheus.Counter{}}
	for reason := range failureDetails {
		f.counts[reason] = m.FailureCounter("api", reason)
	}
	return f
}

// refusal responds to a request whose authentication failed. An address that has used up its
// failures must wait, and its connection is closed, so that the next attempt costs it a new
// one. A request without a token is not a guess.
func (a *API) refusal(w http.ResponseWriter, r *http.Request, reason string) *problem {
	a.failures.counts[reason].Inc()
	refusal := kindUnauthorized.problem("%s", failureDetails[reason])
	if reason == failureMissing {
		return refusal
	}
	x := exchangeOf(r.Context())
	f := a.failures.guesses.Failed(x.remote, time.Now())
	if f.Log {
		a.c.Log.LogAttrs(r.Context(), slog.LevelWarn, "authentication failed", slog.String("remote", x.remoteName()),
			slog.String("reason", reason), slog.Int("more_since_last_line", f.More),
			slog.Int("more_of_others", f.Others), slog.String("request_id", x.id))
	}
	if f.Slowed {
		w.Header().Set("Connection", "close")
		refusal = &problem{kind: kindTooMany, detail: "Too many invalid tokens came from this address.",
			retryAfter: f.RetryAfter}
	}
	return refusal
}
