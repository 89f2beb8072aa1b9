package sender

import (
	"fmt"
	"io"
	"log/slog"
)

// ClientCredentials are how the relay gets access tokens for a callback's receiver: by the OAuth
// 2.0 client credentials grant (RFC 6749 section 4.4). They print as "[redacted]".
type ClientCredentials struct {
	TokenURL string // judged by the rules for callbacks' URLs; see CheckURL
	ID       string
	Secret   string
	Scope    string // scopes separated by spaces; may be empty
	Audience string // sent as the parameter audience, unless empty; some servers want it
	InForm   bool   // id and secret go in the form instead of as HTTP Basic
}

// WithToken returns the authorization with an access token, which the Sender gets by the
// credentials and keeps until shortly before its end.
func WithToken(c ClientCredentials) Auth {
	return Auth{credentials: func() *ClientCredentials { return &c }}
}

// Format writes "[redacted]" for every verb.
func (ClientCredentials) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, "[redacted]") }

// LogValue is always "[redacted]".
func (ClientCredentials) LogValue() slog.Value { return slog.StringValue("[redacted]") }
