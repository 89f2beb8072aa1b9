package audatex

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/relay"
)

// Outcome is the result of a call to the vendor. The set is closed: what happens next (continue,
// subscribe again, refresh, wait, set aside) follows from this value alone, never from the text of
// a response.
type Outcome int

const (
	// Done: the vendor returned what was requested.
	Done Outcome = iota
	// NotFound: 404 or 410, or a response without the requested order.
	NotFound
	// Conflict: 409; the topic is already subscribed.
	Conflict
	// Unauthorised: 401, even after one refreshed token, or a consent that has ended (see
	// ConsentRequiredError).
	Unauthorised
	// Forbidden: 403; the consent lacks the scope, or the user the permission. Also: the token
	// endpoint refuses this relay's own client id, secret or scopes.
	Forbidden
	// Throttled: 429, or the relay's own request budget did not allow the call in time; nothing was
	// read.
	Throttled
	// Unavailable: no complete response (5xx, network, timeout, cut connection, a redirect to some
	// page).
	Unavailable
	// Malformed: a response that cannot be understood, or a request that the vendor did not
	// understand (other 4xx).
	Malformed
	// TooLarge: a response above the limit of its operation.
	TooLarge
)

var outcomeNames = [...]string{
	Done: "done", NotFound: "not-found", Conflict: "conflict", Unauthorised: "unauthorised", Forbidden: "forbidden",
	Throttled: "throttled", Unavailable: "unavailable", Malformed: "malformed", TooLarge: "too-large",
}

// String returns the outcome's name in metrics and logs.
func (o Outcome) String() string {
	if o < 0 || int(o) >= len(outcomeNames) {
		return fmt.Sprintf("outcome-%d", int(o))
	}
	return outcomeNames[o]
}

// Operation is the name of a call of the vendor's API in errors, metrics and logs.
type Operation string

// The vendor's operations that the relay uses.
const (
	OpWhoami        Operation = "whoami"
	OpTopics        Operation = "topics"
	OpSubscriptions Operation = "subscriptions"
	OpSubscribe     Operation = "subscribe"
	OpUnsubscribe   Operation = "unsubscribe"
	OpPoll          Operation = "poll"
	OpOrder         Operation = "order"
	OpAssessment    Operation = "assessment"
	OpToken         Operation = "token"
	OpMe            Operation = "me"
)

// priority returns the priority at which an operation waits for the budget, unless its session has
// another.
func (o Operation) priority() Priority {
	switch o {
	case OpWhoami, OpMe: // used when a user has consented
		return PriorityExchange
	case OpToken:
		return PriorityRefresh
	case OpOrder, OpAssessment:
		return PriorityResolve
	case OpPoll, OpTopics, OpSubscriptions, OpSubscribe, OpUnsubscribe:
	}
	return PriorityPoll
}

// Error is the error of every call in this package that reached, or tried to reach, the vendor. It
// contains no secret.
type Error struct {
	Operation Operation
	Outcome   Outcome
	// Status is the HTTP status, 0 without a response.
	Status int
	// CorrelationID is what the vendor's service desk asks for; empty without a response.
	CorrelationID string
	// RetryAfter is how long the vendor (or the budget) wants no requests; 0 if there is no such
	// time.
	RetryAfter time.Duration
	// Message is the beginning of the vendor's plain-text response: at most 200 printable
	// characters.
	Message string
	// AnswerLost is set if a response may have been sent that was not, or not completely, read. For
	// a poll, which is destructive, that is a suspected gap. It is false if there was no
	// connection, because nothing was sent then.
	AnswerLost bool

	noAnswer bool // of the token endpoint: no response, or it was cut off
	err      error
}

// Error returns the operation, the outcome, the status, the vendor's message and the correlation
// id.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "audatex %s: %s", e.Operation, e.Outcome)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (status %d)", e.Status)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.err != nil {
		fmt.Fprintf(&b, ": %v", e.err)
	}
	if e.CorrelationID != "" {
		fmt.Fprintf(&b, " [correlation_id %s]", e.CorrelationID)
	}
	return b.String()
}

// Unwrap returns the cause, nil if the vendor's response itself was the cause.
func (e *Error) Unwrap() error { return e.err }

// OutcomeOf returns the outcome of a call that returned err: Done for nil, the outcome of an Error
// or ConsentRequiredError in it, and Unavailable for everything else (a store that does not
// respond, a context that ended), which delays work and loses nothing.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Done
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Outcome
	}
	if _, ok := errors.AsType[*ConsentRequiredError](err); ok {
		return Unauthorised
	}
	return Unavailable
}

// errorOf returns the Error in err, an empty one if there is none.
func errorOf(err error) Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return *e
	}
	return Error{}
}

// CorrelationIDOf returns the vendor's correlation id in err, or "".
func CorrelationIDOf(err error) string { return errorOf(err).CorrelationID }

// RetryAfterOf returns how long the vendor wants no requests according to err, or 0.
func RetryAfterOf(err error) time.Duration { return errorOf(err).RetryAfter }

// RefusesOrder reports whether err means that the vendor is well and refuses only the order that was asked for.
func RefusesOrder(err error) bool {
	switch e := errorOf(err); e.Outcome {
	case NotFound, Forbidden, Malformed, TooLarge:
		return e.Operation != OpToken // a refused token has nothing to do with the order
	case Done, Conflict, Unauthorised, Throttled, Unavailable:
	}
	return false
}

// statusOutcome returns the outcome for the status of a response. For 2xx the operation decides.
func statusOutcome(status int) Outcome {
	switch {
	case status >= 200 && status < 300:
		return Done
	case status == 401:
		return Unauthorised
	case status == 403:
		return Forbidden
	case status == 404 || status == 410:
		return NotFound
	case status == 409:
		return Conflict
	case status == 429:
		return Throttled
	case status == 407 || status == 408 || status == 425:
		return Unavailable // the proxy or the moment is to blame, not the request
	case status >= 500:
		return Unavailable
	case status == 301 || status == 302 || status == 303 || status == 307 || status == 308:
		return Unavailable // a sign-in or maintenance page instead of the API
	default:
		return Malformed
	}
}

// maxMessage bounds, in characters, what of a foreign response is put in errors and logs.
const maxMessage = 200

// message prepares a foreign body for one log line: printable, single spaces, limited, and without
// the secret that was sent with the request, in case the response repeats it.
func message(body []byte, sent relay.Secret) string {
	const enough = 4 * maxMessage * utf8.UTFMax
	s := string(body)
	if t := sent.Reveal(); t != "" {
		s = strings.ReplaceAll(s, t, relay.Redacted)
	}
	if len(s) > enough {
		s = s[:enough]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsSpace(r) && (!unicode.IsPrint(r) || r == utf8.RuneError) {
			return -1
		}
		return r
	}, s)
	text := []rune(strings.Join(strings.Fields(s), " "))
	return string(text[:min(len(text), maxMessage)])
}

// cause removes net/http's wrapping, which repeats method and URL, and keeps a context's reason
// recognisable.
func cause(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
		return fmt.Errorf("%w: %w", c, err)
	}
	return err
}
