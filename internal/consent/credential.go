package consent

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

const (
	// TokenBytes is the length of every token, state, cookie and verifier: 256 random bits.
	TokenBytes = 32
	// idBytes is how many bytes of a token's hash make up its link's id.
	idBytes = 16
)

// newSecret returns 256 random bits in the alphabet of URLs.
func newSecret() string {
	var b [TokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return tokenOf(b[:])
}

func tokenOf(random []byte) string { return base64.RawURLEncoding.EncodeToString(random) }

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// matches reports whether a hash is the hash of a secret.
func matches(hash []byte, secret string) bool {
	return subtle.ConstantTimeCompare(hash, hashOf(secret)) == 1
}

// linkID returns the id of the link that a token opens.
func linkID(token string) string { return hex.EncodeToString(hashOf(token)[:idBytes]) }

// newState returns a state for an attempt of a link. It contains the link's id, so that the link
// can be found by it.
func newState(link string) string { return newSecret() + "." + link }

// attemptID returns the id of the attempt that a state belongs to.
func attemptID(state string) string { return hex.EncodeToString(hashOf(state)) }

// credential is what a request uses to open a link: the token in its URL, or the state of an
// attempt.
type credential struct {
	link    string // id
	token   string // "" for a state
	attempt string // id; "" for a token
}

// readCredential parses a token or a state. It returns false if the text is neither.
func readCredential(text string) (credential, bool) {
	secret, link, isState := strings.Cut(text, ".")
	if b, err := base64.RawURLEncoding.Strict().DecodeString(secret); err != nil || len(b) != TokenBytes {
		return credential{}, false
	}
	if !isState {
		return credential{link: linkID(text), token: text}, true
	}
	if b, err := hex.DecodeString(link); err != nil || len(b) != idBytes || strings.ToLower(link) != link {
		return credential{}, false
	}
	return credential{link: link, attempt: attemptID(text)}, true
}

// challenge returns the S256 challenge of a PKCE verifier (RFC 7636).
func challenge(verifier string) string { return base64.RawURLEncoding.EncodeToString(hashOf(verifier)) }
