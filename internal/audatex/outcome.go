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

// Outcome is what a call to the vendor came to. It is a closed set: what happens next (go on, subscribe anew, refresh,
// hold, set aside) follows from this value alone, never from the text of an answer.
type Outcome int

const (
	// Done: the vendor answered what was asked.
	Done Outcome = iota
	// NotFound: 404 or 410, or an order's answer that carried no order.
	NotFound
	// Conflict: 409; the topic is subscribed already.
	Conflict
	// Unauthorised: 401, also after one refreshed token, or a consent that has ended (see ConsentRequiredError).
	Unauthorised
	// Forbidden: 403; the consent lacks the scope or the user the permission. Also: the token endpoint refuses this
	// relay's own client id, secret or scopes.
	Forbidden
	// Throttled: 429, or the relay's own request budget did not allow the call in time; nothing was read.
	Throttled
	// Unavailable: no complete answer (5xx, network, timeout, cut connection, a redirect to some other page).
	Unavailable
	// Malformed: an answer that cannot be understood, or a request the vendor did not understand (other 4xx).
	Malformed
	// TooLarge: an answer above the bound of its operation.
	TooLarge
)

var outcomeNames = [...]string{
	Done: "done", NotFound: "not-found", Conflict: "conflict", Unauthorised: "unauthorised", Forbidden: "forbidden",
	Throttled: "throttled", Unavailable: "unavailable", Malformed: "malformed", TooLarge: "too-large",
}

// String is the name used in metrics and logs.
func (o Outcome) String() string {
	if o < 0 || int(o) >= len(outcomeNames) {
		return fmt.Sprintf("outcome-%d", int(o))
	}
	return outcomeNames[o]
}

// Operation names a call of the vendor's API in errors, metrics and logs.
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

// priority is the one at which an operation waits for the budget unless its session says otherwise.
func (o Operation) priority() Priority {
	switch o {
	case OpWhoami, OpMe: // asked when a user has consented
		return PriorityExchange
	case OpToken:
		return PriorityRefresh
	case OpOrder, OpAssessment:
		return PriorityResolve
	case OpPoll, OpTopics, OpSubscriptions, OpSubscribe, OpUnsubscribe:
	}
	return PriorityPoll
}

// Error is the error of every call in this package that reached, or tried to reach, the vendor. It carries no secret.
type Error struct {
	Operation Operation
	Outcome   Outcome
	// Status is the HTTP status, 0 when no answer came.
	Status int
	// CorrelationID is what the vendor's service desk asks for; empty when no answer came.
	CorrelationID string
	// RetryAfter is how long the vendor (or the budget) wants to be left alone; 0 when nothing was said.
	RetryAfter time.Duration
	// Message is the start of the vendor's plain-text answer: at most 200 printable characters.
	Message string
	// AnswerLost says that an answer may have been sent that was not, or not wholly, read. For a poll that is a
	// suspected gap: a poll is destructive. It is false when no connection came about, as nothing was sent then.
	AnswerLost bool

	noAnswer bool // of the token endpoint: none came, or it was cut off
	err      error
}

// Error says which operation came to what, with the status, the vendor's words and the correlation id.
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

// Unwrap gives the cause, nil when the vendor's answer itself was the cause.
func (e *Error) Unwrap() error { return e.err }

// OutcomeOf says what a call that returned err came to: Done for nil, the outcome of the Error or ConsentRequiredError
// within, and Unavailable for everything else (a store that does not answer, a context that ended): trouble that holds
// work back and loses nothing.
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

// CorrelationIDOf gives the vendor's correlation id carried by err, "" if there is none.
func CorrelationIDOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.CorrelationID
	}
	return ""
}

// RetryAfterOf gives how long the vendor wants to be left alone according to err, 0 if it did not say.
func RetryAfterOf(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// statusOutcome maps the status of an answer. 2xx is left to the operation.
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
		return Unavailable // the proxy or the moment is at fault, not the request
	case status >= 500:
		return Unavailable
	case status == 301 || status == 302 || status == 303 || status == 307 || status == 308:
		return Unavailable // a sign-in or maintenance page stands in the API's place
	default:
		return Malformed
	}
}

// maxMessage bounds, in characters, what of a foreign answer reaches errors and logs.
const maxMessage = 200

// message makes a foreign body fit for one log line: printable, single spaces, bounded, without the secret that was
// sent with the request, should the answer repeat it.
func message(body []byte, sent relay.Secret) string {
	const enough = 4 * maxMessage * utf8.UTFMax
	s := string(body)
	if t := sent.Reveal(); t != "" {
		s = strings.ReplaceAll(s, t, relay.Redacted)
	}
	if len(s) > enough {
		s = s[:enough]
	}
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		if unicode.IsSpace(r) {
			space = n > 0
			continue
		}
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			continue
		}
		if space {
			b.WriteByte(' ')
			n++
			space = false
		}
		if n >= maxMessage {
			break
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// cause drops net/http's wrapping, which repeats method and URL, but keeps a context's reason recognisable.
func cause(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
		return fmt.Errorf("%w: %w", c, err)
	}
	return err
}
