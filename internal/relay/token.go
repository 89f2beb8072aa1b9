package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// How reading and replacing a TokenRecord end when they do not succeed, possibly wrapped.
var (
	ErrNoToken      = errors.New("connection has no token")
	ErrTokenChanged = errors.New("token record has changed")
)

// TokenRecord is what is kept of a connection's consent. A new refresh token replaces the whole
// record by {RefreshToken, Generation, ConsentAt}: everything else belongs to the token before it.
type TokenRecord struct {
	AccessToken  Secret `json:"-"` // the store encrypts the tokens separately
	RefreshToken Secret `json:"-"`
	// ExpiresAt and RefreshedAt are the access token's life.
	ExpiresAt   time.Time `json:"expiresAt"`
	RefreshedAt time.Time `json:"refreshedAt"`
	// Intent is set while a refresh is under way, or was when its process died.
	Intent *RefreshIntent `json:"intent,omitempty"`
	// ConsentRequiredSince is set when the vendor refused the refresh token for good. Reason is
	// why.
	ConsentRequiredSince *time.Time `json:"consentRequiredSince,omitempty"`
	Reason               string     `json:"reason,omitempty"`
	// ConsentAt is when the consent came that the tokens descend from: what was refused before may
	// be granted since. ConsentID names it if it was given in a browser; it is empty if an operator
	// has put the refresh token.
	ConsentID string    `json:"consentId,omitempty"`
	ConsentAt time.Time `json:"consentAt,omitzero"`
	// Epoch is that of the shard's lease under which the record was written.
	Epoch uint64 `json:"epoch"`
	// Generation distinguishes one registration of the connection from a later one of the same
	// name.
	Generation string `json:"generation"`
}

// RefreshIntent records that RefreshToken may be spent: a refresh was started and its response is not
// stored.
type RefreshIntent struct {
	ID string
	// Owner is the process that refreshes, by its Tokens' random id.
	Owner     string
	StartedAt time.Time
	// Deadline is when another process need not wait any longer for the result.
	Deadline time.Time
}

// Redacted is printed instead of a secret.
const Redacted = "[redacted]"

// Secret holds a token or client secret so that it cannot slip into a log line, an error or a JSON
// document: every way of printing it yields "[redacted]", and only Reveal gives the text. The zero
// value is the empty secret.
//
// The text is behind a pointer because fmt prints the unexported fields of enclosing structs
// without asking their methods; a pointer prints as an address there.
type Secret struct{ text *string }

// NewSecret wraps text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal gives the text itself, for the wire and for encryption only.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.text == nil }

// Equal compares texts. Secrets must not be compared with ==.
func (s Secret) Equal(o Secret) bool { return s.Reveal() == o.Reveal() }

// String never gives the text.
func (s Secret) String() string { return Redacted }

// Format never writes the text, with any verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, Redacted) }

// LogValue never gives the text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText never gives the text: what stores a secret reveals and encrypts it explicitly.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
