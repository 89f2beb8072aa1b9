package sender

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Outcome is the result of one attempt. The set is closed: whether to acknowledge and to retry,
// metrics and log lines all follow from it.
type Outcome int

// The outcomes.
const (
	_              Outcome = iota
	Success                // 2xx: the receiver has accepted the event
	Gone                   // 410: the receiver wants no more events for this callback
	Throttled              // 429, or 503 with a valid Retry-After: try later, see Attempt.RetryAfter
	Refused                // any other status, including redirects, which are not followed
	Timeout                // the attempt took too long
	ConnectFailed          // the name was not found, or the connection was not accepted
	TLSFailed              // the handshake failed, mostly because of the receiver's certificate
	AddressRefused         // callbacks may not reach the address
	BadAnswer              // connected, but the response was not HTTP/1.1, or there was none
	Cancelled              // ended by the relay: this has no meaning for the receiver
	TokenFailed            // not sent: no access token for the receiver was got from the callback's token URL
	Invalid                // not sent: no request can be made from the callback's URL, headers or secrets
)

// Outcomes returns all outcomes, so that each has its metric from the start.
func Outcomes() []Outcome {
	return []Outcome{
		Success, Gone, Throttled, Refused, Timeout, ConnectFailed, TLSFailed, AddressRefused, BadAnswer, Cancelled,
		TokenFailed, Invalid,
	}
}

// String returns a short, stable text for a metric's label.
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Gone:
		return "gone"
	case Throttled:
		return "throttled"
	case Refused:
		return "refused"
	case Timeout:
		return "timeout"
	case ConnectFailed:
		return "connect_failed"
	case TLSFailed:
		return "tls_failed"
	case AddressRefused:
		return "address_refused"
	case BadAnswer:
		return "bad_answer"
	case Cancelled:
		return "cancelled"
	case TokenFailed:
		return "token_failed"
	case Invalid:
		return "invalid"
	}
	return "outcome_" + strconv.Itoa(int(o))
}

// Overloaded reports whether the receiver, or what stands before it, has signalled that it cannot take so much now.
func (a *Attempt) Overloaded() bool {
	return asksToWait(a.Status) && (a.Outcome == Throttled || a.Outcome == Refused)
}

// asksToWait reports whether a status means that a server, or what stands before it, cannot respond for now. Its
// Retry-After is honoured.
func asksToWait(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Attempt is the record of one attempt. It holds no secret: it is stored, and shown to the client.
type Attempt struct {
	At       time.Time // when it began; also the webhook-timestamp
	Outcome  Outcome
	Status   int           // of the response; 0 if there was none
	Duration time.Duration // from At until the response was read or given up
	// with 429, 502, 503, 504 and TokenFailed: the requested wait, up to MaxRetryAfter; 0 if there is none
	RetryAfter time.Duration
	Error      string         // what went wrong, in the relay's words; empty on Success
	Excerpt    string         // the beginning of the body of a response that is not 2xx, printable, at most 256 bytes
	RemoteAddr netip.AddrPort // the receiver or the proxy; zero if never connected
	Phases     Phases         // where the time went
	// Headers are those of the response that are shown: lines of a name in lower case, ": " and a
	// value.
	Headers string
}

// Record returns the attempt as the log of attempts holds it, without what it was made for.
func (a *Attempt) Record() relay.AttemptRecord {
	return relay.AttemptRecord{
		At: a.At.UTC(), DurationMillis: millis(a.Duration), Outcome: a.Outcome.String(), Status: a.Status,
		Error:   a.Error,
		Excerpt: a.Excerpt, Remote: a.RemoteAddr, Headers: a.Headers, Phases: relay.Phases{
			DNS: millis(a.Phases.DNS), Connect: millis(a.Phases.Connect), TLS: millis(a.Phases.TLS),
			FirstByte: millis(a.Phases.FirstByte),
		},
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (a *Attempt) fail(o Outcome, text string) { a.Outcome, a.Error = o, text }

// answered sets the attempt's outcome from the status of the response.
func (a *Attempt) answered(h *head) {
	a.Status = h.status
	if a.Status >= 200 && a.Status <= 299 {
		a.Outcome = Success
		return
	}
	status := "answered " + strconv.Itoa(a.Status)
	switch code := a.Status; {
	case code == http.StatusGone:
		a.fail(Gone, status+": the receiver wants no more events")
	case asksToWait(code):
		wait, ok := retryAfter(h.retryAfter, h.date, a.At)
		a.RetryAfter = wait
		if code == http.StatusTooManyRequests || ok && code == http.StatusServiceUnavailable {
			a.fail(Throttled, status)
		} else { // a gateway that fails, whatever it asks about when to come back
			a.fail(Refused, status)
		}
	case code >= 300 && code <= 399:
		a.fail(Refused, status+": redirects are not followed")
	default:
		a.fail(Refused, status)
	}
}
