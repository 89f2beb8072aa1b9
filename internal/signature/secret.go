package signature

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
)

// The sizes of a decoded secret, in bytes, that Standard Webhooks allows for symmetric signatures
// (192 to 512 bits).
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
)

const (
	secretPrefix = "whsec_"
	redacted     = "[redacted]"
)

// NewSecretBytes is how many random bytes a new secret has. It is the size of the digest; a longer
// key adds nothing to HMAC-SHA256.
const NewSecretBytes = 32

// The errors of ParseSecret. None of them repeats any part of the input.
var (
	ErrSecretPrefix = errors.New("a secret begins with " + secretPrefix)
	ErrSecretBase64 = errors.New("what follows " + secretPrefix + " is not standard base64 with padding")
	ErrSecretLength = fmt.Errorf("a secret holds %d to %d bytes once its base64 is decoded", MinSecretBytes,
		MaxSecretBytes)
)

// Secret is the signing key that a callback and its receiver share. It can be copied freely and
// used by many goroutines. Its zero value signs nothing and verifies nothing. No formatter, logger
// or encoder can print it: only Reveal returns the text.
type Secret struct {
	// This is a function because fmt prints the unexported fields of any struct that holds a Secret
	// without calling our methods, and even through a pointer if the verb does not fit. It cannot
	// look into a function.
	get func() *key
}

func newSecret(b []byte) Secret {
	k := &key{bytes: b}
	return Secret{get: func() *key { return k }}
}

type key struct {
	bytes []byte
	// The keyed MACs. hash.Hash.Reset returns one to the state just after it absorbed its key, so
	// that signing costs only the message.
	macs sync.Pool
}

// mac holds what one signing needs, so that nothing is allocated again.
type mac struct {
	hash hash.Hash
	head []byte // "<id>.<timestamp>."
	sum  [sha256.Size]byte
}

// NewSecret returns a secret of 32 random bytes.
func NewSecret() Secret {
	b := make([]byte, NewSecretBytes)
	rand.Read(b) // never fails: without randomness the runtime ends the program
	return newSecret(b)
}

// SecretOf returns a secret made of NewSecretBytes random bytes.
func SecretOf(random []byte) Secret { return newSecret(bytes.Clone(random)) }

// ParseSecret parses the form whsec_<base64> in which secrets are shown to people. The error is
// ErrSecretPrefix, ErrSecretBase64 or ErrSecretLength.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, ErrSecretPrefix
	}
	if len(encoded) > base64.StdEncoding.EncodedLen(MaxSecretBytes) {
		return Secret{}, ErrSecretLength
	}
	// The decoder ignores line breaks, which a receiver's decoder may not.
	if strings.ContainsAny(encoded, "\r\n") {
		return Secret{}, ErrSecretBase64
	}
	b, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Secret{}, ErrSecretBase64
	}
	if len(b) < MinSecretBytes || len(b) > MaxSecretBytes {
		return Secret{}, ErrSecretLength
	}
	return newSecret(b), nil
}

// Reveal returns the secret in the form that ParseSecret reads. It is for showing the secret once
// to its owner, and for encrypting it for storage. It is empty for the zero Secret.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(s.get().bytes)
}

// IsZero reports whether s holds no key.
func (s Secret) IsZero() bool { return s.get == nil }

// Equal reports, in constant time, whether both hold the same key.
func (s Secret) Equal(other Secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() && other.IsZero()
	}
	return hmac.Equal(s.get().bytes, other.get().bytes)
}

// String is always "[redacted]".
func (Secret) String() string { return redacted }

// Format writes "[redacted]" for every verb: %d and %#v would not call String.
func (Secret) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(redacted)) }

// LogValue is always "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails. A placeholder would sooner or later be stored by mistake, and the
// secret lost.
func (Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a signing secret is not encoded: use Reveal and encrypt it")
}

func (k *key) mac() *mac {
	if m, ok := k.macs.Get().(*mac); ok {
		m.hash.Reset()
		return m
	}
	return &mac{hash: hmac.New(sha256.New, k.bytes), head: make([]byte, 0, 128)}
}
