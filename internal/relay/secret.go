package relay

import (
	"fmt"
	"log/slog"
)

// Redacted stands in the place of a secret.
const Redacted = "[redacted]"

// Secret holds a token or client secret so that it cannot slip into a log line, an error or a JSON
// document: every way of printing it yields "[redacted]", and only Reveal gives the text. The zero
// value is the empty secret.
//
// The text stands behind a pointer because fmt prints the unexported fields of enclosing structs
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
