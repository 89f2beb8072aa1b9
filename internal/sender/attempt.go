package sender

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// Outcome is what one attempt came to. The set is closed: acknowledging, retrying, metrics and log lines follow from
// it.
type Outcome int

// The outcomes.
const (
	_              Outcome = iota
	Success                // 2xx: the receiver has taken the event
	Gone                   // 410: the receiver wants no more of this callback
	Throttled              // 429, or 503 with a Retry-After that can be read: later, see Attempt.RetryAfter
	Refused                // any other status; redirects too, as they are not followed
	Timeout                // the attempt's time was up
	ConnectFailed          // the name was not found, or nobody took the connection
	TLSFailed              // the handshake failed; mostly the receiver's certificate
	AddressRefused         // the address is one that callbacks may not reach
	BadAnswer              // connected, but what came back was not an HTTP/1.1 answer, or nothing
	Cancelled              // broken off by us: says nothing about the receiver
	Invalid                // not sent: the callback's URL, headers or secrets cannot make a request
)

// Outcomes lists all of them, so that each has its metric from the start.
func Outcomes() []Outcome {
	return []Outcome{
		Success, Gone, Throttled, Refused, Timeout, ConnectFailed, TLSFailed, AddressRefused, BadAnswer, Cancelled, Invalid,
	}
}

// String is short and stable, made for a metric's label.
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
	case Invalid:
		return "invalid"
	}
	return "outcome_" + strconv.Itoa(int(o))
}

// Attempt is one attempt as it went. Nothing in it is secret: it is stored, and shown to the client.
type Attempt struct {
	At         time.Time // when it began; also the webhook-timestamp
	Outcome    Outcome
	Status     int            // of the answer; 0 if there was none
	Duration   time.Duration  // from At until the answer was read or given up
	RetryAfter time.Duration  // with Throttled: the wait asked for, up to MaxRetryAfter; 0 if the answer does not say
	Error      string         // what went wrong, in a few words of our own; empty on Success
	Excerpt    string         // the beginning of the body of an answer that was not 2xx, printable, at most 256 bytes
	RemoteAddr netip.AddrPort // who answered or should have: the receiver, or the proxy; zero if never connected
}

func (a *Attempt) fail(o Outcome, text string) { a.Outcome, a.Error = o, text }

// answered settles an attempt by the answer's status.
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
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		wait, ok := retryAfter(h.retryAfter, h.date, a.At)
		if !ok && code == http.StatusServiceUnavailable {
			a.fail(Refused, status)
			return
		}
		a.RetryAfter = wait
		a.fail(Throttled, status)
	case code >= 300 && code <= 399:
		a.fail(Refused, status+": redirects are not followed")
	default:
		a.fail(Refused, status)
	}
}
