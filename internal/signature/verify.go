package signature

import (
	"crypto/subtle"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DefaultTolerance is how far the timestamp of an attempt may be from the receiver's clock, in
// either direction. It is the value that the specification's own libraries use.
const DefaultTolerance = 5 * time.Minute

// Reason is why a callback could not be verified. It is the error that Verify returns; the set is
// closed.
type Reason int

// The reasons, in the order in which Verify checks them.
const (
	_             Reason = iota
	NoSecret             // the secret to verify with is the zero Secret
	MissingHeader        // webhook-id, webhook-timestamp or webhook-signature is absent or empty
	BadTimestamp         // webhook-timestamp is not a number of Unix seconds
	TooOld               // the timestamp is further in the past than the tolerance: perhaps a recorded request
	TooNew               // the timestamp is further in the future than the tolerance: some clock is wrong
	NoMatch              // no v1 signature matches: another secret was used, or the body was changed
)

// String returns a short, stable text for a metric's label.
func (r Reason) String() string {
	switch r {
	case NoSecret:
		return "no_secret"
	case MissingHeader:
		return "missing_header"
	case BadTimestamp:
		return "bad_timestamp"
	case TooOld:
		return "too_old"
	case TooNew:
		return "too_new"
	case NoMatch:
		return "no_match"
	}
	return "reason_" + strconv.Itoa(int(r))
}

// Error returns the reason in words, without any part of the request.
func (r Reason) Error() string {
	switch r {
	case NoSecret:
		return "verify callback: no secret to verify with"
	case MissingHeader:
		return "verify callback: webhook-id, webhook-timestamp or webhook-signature is missing"
	case BadTimestamp:
		return "verify callback: webhook-timestamp is not a number of Unix seconds"
	case TooOld:
		return "verify callback: webhook-timestamp is too far in the past"
	case TooNew:
		return "verify callback: webhook-timestamp is too far in the future"
	case NoMatch:
		return "verify callback: no v1 signature matches"
	}
	return "verify callback: " + r.String()
}

// Verify reports whether body, exactly as it was received, was signed with the secret for the id
// and timestamp in the headers, at a time within the tolerance of now. It returns nil or a Reason.
//
// A timestamp must be written as signers write it (no sign, no leading zero). The reference library
// also accepts other forms, but no signer can produce them: signatures are made over the plain
// number.
func Verify(secret Secret, headers http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	if secret.IsZero() {
		return NoSecret
	}
	id, timestamp, signatures := headers.Get(HeaderID), headers.Get(HeaderTimestamp), headers.Get(HeaderSignature)
	if id == "" || timestamp == "" || signatures == "" {
		return MissingHeader
	}
	at, ok := parseTimestamp(timestamp)
	switch {
	case !ok:
		return BadTimestamp
	case now.Sub(at) > tolerance:
		return TooOld
	case at.Sub(now) > tolerance:
		return TooNew
	}

	k := secret.get()
	m := k.mac()
	defer k.macs.Put(m)
	m.head = append(append(m.head[:0], id...), '.')
	m.head = append(append(m.head, timestamp...), '.')
	var stack [signatureLen]byte
	want := m.appendSignature(stack[:0], body)
	for candidate := range strings.SplitSeq(signatures, " ") {
		if subtle.ConstantTimeCompare([]byte(candidate), want) == 1 {
			return nil
		}
	}
	return NoMatch
}

// parseTimestamp parses Unix seconds. Eleven digits last until the year 5138, and cannot overflow
// time.Time.
func parseTimestamp(text string) (time.Time, bool) {
	if len(text) > 11 || (text[0] == '0' && text != "0") {
		return time.Time{}, false
	}
	var seconds int64
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
		seconds = seconds*10 + int64(c-'0')
	}
	return time.Unix(seconds, 0), true
}
