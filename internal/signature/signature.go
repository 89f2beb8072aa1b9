// Package signature signs callbacks according to Standard Webhooks 1.0 (https://www.standardwebhooks.com). While a
// secret is being rotated a callback has several, and every attempt carries a signature with each, so that the receiver
// can switch at any moment in between. Begin with Sign; secret.go keeps secrets out of every log.
package signature

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"
)

// The headers of a signed callback, in the spelling of Go's http.Header. Header names are not
// case-sensitive.
const (
	HeaderID        = "Webhook-Id"        // of the event: the same for every attempt
	HeaderTimestamp = "Webhook-Timestamp" // of the attempt, in Unix seconds
	HeaderSignature = "Webhook-Signature" // one or more signatures, separated by spaces
)

const (
	scheme       = "v1,"
	signatureLen = len(scheme) + (sha256.Size+2)/3*4
)

// Sign returns the value of the header webhook-signature for one attempt: a signature for each
// secret, in order, separated by spaces. A zero Secret adds none, so without any secret the result
// is empty.
//
// The id must not contain a full stop. The specification requires that, because the parts are
// joined by full stops.
//
// A signature is HMAC-SHA256 with a whsec_ secret over "<id>.<unix seconds>.<body>", written as "v1,<base64>".
//
// The reference library is used by receivers and in the tests as an independent judge, not for
// signing: it signs with one secret at a time, copies the whole body for every signature, builds
// the keyed state every time (the relay signs once for each secret of each of thousands of attempts
// a second), and does not limit a secret's length.
func Sign(secrets []Secret, id string, at time.Time, body []byte) string {
	var stack [2*signatureLen + 1]byte // most callbacks have one secret, some two for a while
	out := stack[:0]
	seconds := at.Unix()
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		if len(out) > 0 {
			out = append(out, ' ')
		}
		k := s.get()
		m := k.mac()
		m.head = append(append(m.head[:0], id...), '.')
		m.head = append(strconv.AppendInt(m.head, seconds, 10), '.')
		out = m.appendSignature(out, body)
		k.macs.Put(m)
	}
	return string(out)
}

// appendSignature appends "v1,<base64>" for the message made of m.head and body.
func (m *mac) appendSignature(out, body []byte) []byte {
	m.hash.Write(m.head)
	m.hash.Write(body)
	m.hash.Sum(m.sum[:0])
	return base64.StdEncoding.AppendEncode(append(out, scheme...), m.sum[:])
}
