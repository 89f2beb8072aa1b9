package access

import (
	"crypto/sha256"
	"math/big"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// An API key reads ark_<key id>_<secret>: the prefix lets scanners of leaked secrets know it, the
// id names it in logs and finds it without searching, the secret is base62 of 32 random bytes.
const (
	keyPrefix    = "ark_"
	keyIDLength  = 12
	idBytes      = 9
	secretBytes  = 32
	secretLength = 43 // base62 digits of 256 bits
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	maxKeyLength = len(keyPrefix) + 32 + 1 + secretLength
)

// KeyOf makes an API key from KeyBytes random bytes. The text must be shown once; the key that is
// stored holds only its hash.
func KeyOf(
	random []byte, role relay.Role, description string, now time.Time, expires *time.Time,
) (text string, key relay.Key) {
	id := inBase62(keyIDLength, random[:idBytes])
	text = keyPrefix + id + "_" + inBase62(secretLength, random[idBytes:])
	return text, relay.Key{ID: id, Hash: hash(text), Role: role, Description: description,
		CreatedAt: now, ExpiresAt: expires}
}

// KeyID returns the id in an API key's text, and whether it has the form of one.
func KeyID(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	if !ok || len(text) > maxKeyLength {
		return "", false
	}
	id, secret, ok := strings.Cut(rest, "_")
	return id, ok && id != "" && len(secret) == secretLength
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// KeyBytes is how many random bytes an API key is made of.
const KeyBytes = idBytes + secretBytes

// inBase62 writes bytes as exactly length digits; more bytes than fit lose their highest part.
func inBase62(length int, b []byte) string {
	v, digit, base := new(big.Int).SetBytes(b), new(big.Int), big.NewInt(int64(len(base62)))
	text := make([]byte, length)
	for i := length - 1; i >= 0; i-- {
		v.DivMod(v, base, digit)
		text[i] = base62[digit.Int64()]
	}
	return string(text)
}

// Resembles reports whether a text begins as an API key does, and should therefore not be shown.
func Resembles(text string) bool { return strings.HasPrefix(text, keyPrefix) }
