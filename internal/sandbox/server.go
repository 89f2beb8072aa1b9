package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The vendor's error bodies are plain text.
const (
	textUnauthorised = "Unauthorised. Please provide valid user credentials."
	textForbidden    = "Forbidden. You do not have permission to perform this action."
	textNotFound     = "Not found."
	textThrottled    = "API calls quota exceeded."
	textBroken       = "An error has occurred."
	textUnavailable  = "The service is unavailable."
	textJSONOnly     = "This sandbox answers in JSON only."
)

// answer is the response of an operation. Operations return it and never write it themselves, so
// that it can be cut in one place.
type answer struct {
	status      int
	contentType string
	body        []byte
	header      map[string]string
	// lost is called, at most once, if the response was not sent completely.
	lost func()
}

func plain(status int, text string) answer {
	return answer{status: status, contentType: "text/plain; charset=utf-8", body: []byte(text)}
}

func jsonBody(status int, body []byte) answer {
	return answer{status: status, contentType: "application/json; charset=utf-8", body: body}
}

// jsonValue encodes strings and similar values, for which encoding cannot fail.
func jsonValue(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		return plain(http.StatusInternalServerError, textBroken)
	}
	return jsonBody(status, body)
}

// call is one request of an operation.
type call struct {
	*http.Request
	correlationID string
	grant         *grant // set by api
}

// routes returns the handler of everything that the sandbox serves.
func (s *Sandbox) routes() http.Handler {
	mux := http.NewServeMux()
	const base = APIPath + "/v1/bmsapi"
	mux.Handle("GET "+base+"/whoami", s.api(OpWhoami, ScopeBasic, s.whoami))
	mux.Handle("GET "+base+"/topics", s.api(OpTopics, ScopeBasic, s.topics))
	for _, level := range []Level{Site, Company, User} {
		subs := base + "/" + string(level) + "/subscriptions"
		mux.Handle("GET "+subs, s.api(OpListSubscriptions, ScopeBasic, atLevel(level, s.listSubscriptions)))
		mux.Handle("POST "+subs, s.api(OpSubscribe, ScopeBasic, atLevel(level, s.subscribe)))
		mux.Handle("DELETE "+subs+"/{id}", s.api(OpUnsubscribe, ScopeBasic, atLevel(level, s.unsubscribe)))
		mux.Handle("GET "+subs+"/{id}/notifications", s.api(OpPoll, ScopeBasic, atLevel(level, s.poll)))
	}
	mux.Handle("GET "+base+"/partsorders/{id}", s.api(OpReadOrder, s.cfg.OrdersScope, s.readOrder))
	mux.Handle("GET "+base+"/assessments/originator/{originator}/assessments/{number}",
		s.api(OpReadAssessment, ScopeBasic, s.readAssessment))
	mux.Handle("GET "+UsersMePath, s.usersAPI(OpUsersMe, ScopeCompany, s.usersMe))
	mux.Handle("GET "+AuthorizePath, s.vendor(OpAuthorize, nil, s.authorize))
	mux.Handle("POST "+AuthorizePath, s.vendor(OpAuthorize, nil, s.consent))
	mux.Handle("POST "+SignInPath, s.vendor(OpSignIn, nil, s.signInForm))
	mux.Handle("POST "+TokenPath, s.vendor(OpToken, s.refreshing, s.token))
	mux.Handle(TrapPath+"/", s.vendor(OpTrap, nil, s.trap))
	mux.Handle("/", s.vendor(OpUnknown, nil, func(call) answer { return plain(http.StatusNotFound, textNotFound) }))
	s.control(mux)
	return mux
}

// trap handles a URL that only occurs in messages. A client must take the order's uuid from it and
// never call it.
func (s *Sandbox) trap(c call) answer {
	s.mu.Lock()
	s.tally.TrapCalls++
	s.mu.Unlock()
	s.cfg.Log.Warn("a URL that came in a message was called", "path", c.URL.Path)
	return plain(http.StatusNotFound, textNotFound)
}

// api handles a call of the vendor's API: it needs a bearer token whose grant has the scope.
func (s *Sandbox) api(op Operation, scope string, run func(call) answer) http.Handler {
	return s.vendor(op, s.bearing, func(c call) answer {
		if asksForXML(c.Header.Get("Accept")) {
			return plain(http.StatusNotAcceptable, textJSONOnly)
		}
		return s.admit(c, scope, refusals{plain, textUnauthorised, "Forbidden. The scope " + scope + " is required."},
			run)
	})
}

// refusals are the error responses of an API.
type refusals struct {
	say                     func(status int, text string) answer
	unauthorised, forbidden string
}

// admit runs a call under the grant of its bearer token, or refuses it.
func (s *Sandbox) admit(c call, scope string, no refusals, run func(call) answer) (a answer) {
	now := s.cfg.Now()
	s.mu.Lock()
	rest, limited := s.overLimit(now)
	if limited {
		s.tally.RateLimited++
	}
	c.grant = s.bearer(c.Request, now)
	s.mu.Unlock()
	switch {
	case limited:
		a = no.say(http.StatusTooManyRequests, textThrottled)
		a.header = map[string]string{"Retry-After": s.retryAfter(rest, false)}
	case c.grant == nil:
		a = no.say(http.StatusUnauthorized, no.unauthorised)
		a.header = map[string]string{"WWW-Authenticate": "Bearer"}
	case !c.grant.has(scope):
		a = no.say(http.StatusForbidden, no.forbidden)
	default:
		a = run(c)
	}
	return a
}

// asksForXML reports whether the caller accepts nothing but XML.
func asksForXML(accept string) bool {
	return strings.Contains(accept, "xml") && !strings.Contains(accept, "json") && !strings.Contains(accept, "*/*")
}

// atLevel refuses grants of other levels.
func atLevel(level Level, run func(call) answer) func(call) answer {
	return func(c call) answer {
		if c.grant.owner.level != level {
			return plain(http.StatusForbidden, textForbidden)
		}
		return run(c)
	}
}

// vendor does what all of the vendor's calls have in common: a call is counted, gets a correlation
// id and may get a fault. Subject, if not nil, returns the call's grant before anything waits, so
// that overlapping calls of one grant are detected.
func (s *Sandbox) vendor(op Operation, subject func(*http.Request) *grant, run func(call) answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := call{Request: r, correlationID: s.dice("correlation", s.answers.Add(1)).uuid()}
		w.Header().Set("Correlation-Id", c.correlationID)
		s.Behaviour().date(w.Header(), s.now())
		fault := s.drawFault(op, r.URL.Path)
		leave := s.enter(op, fault, subject, r)
		fault.sleep(r.Context())

		var a answer
		switch fault.kind {
		case faultCut:
			leave()
			s.cut(r.Context(), op, c.correlationID)
		case fault500:
			a = plain(http.StatusInternalServerError, textBroken)
		case fault429:
			a = plain(http.StatusTooManyRequests, textThrottled)
		case fault503:
			a = plain(http.StatusServiceUnavailable, textUnavailable)
		case faultNone, faultCutAfter, faultLatency:
			a = run(c)
		}
		// Before the response is sent: the client may call again as soon as it has it.
		leave()
		for name, value := range a.header {
			w.Header().Set(name, value)
		}
		if fault.retryAfter != "" {
			w.Header().Set("Retry-After", fault.retryAfter)
		}
		if fault.kind == faultCutAfter {
			if a.lost != nil {
				a.lost()
			}
			if fault.middle && len(a.body) > 1 {
				// The loss is recorded before the client can notice.
				_ = write(w, a, len(a.body)/2) // it is cut anyway
			}
			s.cut(r.Context(), op, c.correlationID)
		}
		s.send(w, r, op, c.correlationID, a)
	})
}

// enter counts a request and returns a function that ends it.
func (s *Sandbox) enter(op Operation, f drawnFault, subject func(*http.Request) *grant, r *http.Request) func() {
	if op == OpToken {
		_ = r.ParseForm() // outside the lock, because it reads the body; token notices what is missing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.Requests[op]++
	if f.kind != faultNone {
		s.tally.Faults[string(f.kind)]++
	}
	if f.wait > 0 {
		s.tally.Faults[string(faultLatency)]++
	}
	var g *grant
	if subject != nil {
		g = subject(r)
	}
	if g == nil {
		return func() {}
	}
	return s.overlap(g, op)
}

// overlap counts a grant's polls and refreshes under way. The caller must hold mu; the returned
// function must be called without.
func (s *Sandbox) overlap(g *grant, op Operation) func() {
	var underWay *int
	switch op {
	case OpPoll:
		underWay = &g.polling
		g.counters.Polls++
		if g.polling > 0 {
			g.counters.PollsOverlapping++
			s.tally.PollsOverlapping++
		}
	case OpToken:
		underWay = &g.refreshing
		if g.refreshing > 0 {
			g.counters.RefreshesOverlapping++
			s.tally.RefreshesOverlapping++
		}
	default:
		return func() {}
	}
	*underWay++
	return func() {
		s.mu.Lock()
		*underWay--
		s.mu.Unlock()
	}
}

// cut ends a request by closing its connection.
func (s *Sandbox) cut(ctx context.Context, op Operation, correlationID string) {
	s.left(ctx, op, 0, correlationID)
	panic(http.ErrAbortHandler) // net/http's own way to drop a connection without a log line
}

// send writes a response, and reports it as lost if it could not be sent.
func (s *Sandbox) send(w http.ResponseWriter, r *http.Request, op Operation, correlationID string, a answer) {
	s.left(r.Context(), op, a.status, correlationID)
	if a.lost == nil {
		_ = write(w, a, len(a.body)) // the caller may be gone
		return
	}
	err := r.Context().Err() // the caller left during the call
	if err == nil {
		err = write(w, a, len(a.body))
	}
	if err == nil {
		// Only a flush finds out whether the connection still accepted it.
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		a.lost()
	}
}

// write sends the head and the first n bytes of the body.
func write(w http.ResponseWriter, a answer, n int) error {
	if a.contentType != "" {
		w.Header().Set("Content-Type", a.contentType)
	}
	if a.status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if n == 0 {
		return nil
	}
	if _, err := w.Write(a.body[:n]); err != nil {
		return fmt.Errorf("writing an answer: %w", err)
	}
	if n < len(a.body) {
		return http.NewResponseController(w).Flush()
	}
	return nil
}

// left counts and logs the result of a request; status 0 means a cut connection.
func (s *Sandbox) left(ctx context.Context, op Operation, status int, correlationID string) {
	s.mu.Lock()
	s.tally.Statuses[status]++
	s.mu.Unlock()
	s.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "vendor answered", slog.String("operation", string(op)),
		slog.Int("status", status), slog.String("correlation_id", correlationID))
}

// whoami returns who owns the token.
func (s *Sandbox) whoami(c call) answer { return jsonValue(http.StatusOK, c.grant.consent.User) }

// assessmentKey is how a body shop identifies an assessment.
type assessmentKey struct{ originator, number string }

func (s *Sandbox) readAssessment(c call) answer {
	s.mu.Lock()
	id, ok := s.assessments[assessmentKey{c.PathValue("originator"), c.PathValue("number")}]
	s.mu.Unlock()
	if !ok {
		return plain(http.StatusNotFound, "No such assessment.")
	}
	return jsonValue(http.StatusOK, id)
}

func (s *Sandbox) now() time.Time { return s.cfg.Now() }
