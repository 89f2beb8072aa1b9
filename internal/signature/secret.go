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

// The sizes of a decoded secret, in bytes, that Standard Webhooks allows for symmetric signatures (192 to 512 bits).
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
)

const (
	secretPrefix = "whsec_"
	redacted     = "[redacted]"
)

// NewSecretBytes is how many random bytes a new secret has: as many as the digest, as a longer key adds nothing to HMAC-SHA256.
const NewSecretBytes = 32

// What ParseSecret may find wrong. None of them repeats any part of the input.
var (
	ErrSecretPrefix = errors.New("a secret begins with " + secretPrefix)
	ErrSecretBase64 = errors.New("what follows " + secretPrefix + " is not standard base64 with padding")
	ErrSecretLength = fmt.Errorf("a secret holds %d to %d bytes once its base64 is decoded", MinSecretBytes, MaxSecretBytes)
)

// Secret is the signing key that a callback and its receiver share. It can be copied freely and used from many
// goroutines; its zero value signs nothing and verifies nothing. It shows itself to no formatter, logger or encoder:
// only Reveal gives the text out.
type Secret struct {
	// A function, because fmt reads through the unexported fields of whatever struct holds a Secret without asking our
	// methods, and through a pointer too when the verb is wrong for it. Into a function nothing can look.
	get func() *key
}

func newSecret(b []byte) Secret {
	k := &key{bytes: b}
	return Secret{get: func() *key { return k }}
}

type key struct {
	bytes []byte
	// Keyed MACs. hash.Hash.Reset brings one back to the state just after its key was absorbed, so that signing pays
	// for the message only.
	macs sync.Pool
}

// mac is what one signing needs, kept together so that none of it is allocated again.
type mac struct {
	hash hash.Hash
	head []byte // "<id>.<timestamp>."
	sum  [sha256.Size]byte
}

// NewSecret makes a secret of 32 random bytes.
func NewSecret() Secret {
	b := make([]byte, NewSecretBytes)
	rand.Read(b) // never fails: the runtime ends the program if the system has no randomness
	return newSecret(b)
}

// SecretOf makes a secret of NewSecretBytes random bytes.
func SecretOf(random []byte) Secret { return newSecret(bytes.Clone(random)) }

// ParseSecret reads the form whsec_<base64> in which secrets are shown to people. The error is ErrSecretPrefix,
// ErrSecretBase64 or ErrSecretLength.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, ErrSecretPrefix
	}
	if len(encoded) > base64.StdEncoding.EncodedLen(MaxSecretBytes) {
		return Secret{}, ErrSecretLength
	}
	// The decoder skips line breaks, which a receiver's decoder may not.
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

// Reveal gives the secret in the form ParseSecret reads, to be shown once to its owner or to be encrypted for
// storage. It is empty for the zero Secret.
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

// Format writes "[redacted]" for every verb: %d and %#v would not ask String.
func (Secret) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(redacted)) }

// LogValue is always "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses. A placeholder instead of an error would be stored by mistake one day, and the secret lost.
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
