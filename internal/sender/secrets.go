package sender

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// Frameworks print the headers, the query or all of a failed request in their error pages. An
// attempt is stored unencrypted, and shown. So an excerpt is dropped as a whole if any part of a
// secret may be in it: in any case, escaped, encoded, broken over lines, or cut off. Removing only
// what is recognised would leave what is not.

// window is how many characters of a secret are recognised. Of encoded secrets more are needed,
// because numbers of other things look like them. A secret shorter than the window must be there as
// a whole. One shorter than shortestSecret is not searched for, because it would be found in every
// text; only a password is, as a word by itself.
const (
	window         = 6
	windowEncoded  = 10
	shortestSecret = 4

	// Instead of a window: for a secret without ASCII letters or digits, of which windowRaw
	// consecutive characters are searched for, and for one that is only searched for as a word.
	letterByLetter = 0
	wholeWord      = -1
	windowRaw      = 4
)

// needle is a secret in the form in which it is searched for; see squeeze.
type needle struct {
	text   string
	window int
}

type needles []needle

// secretsOf returns what a shown response must not repeat: credentials, the client's own headers,
// signing secrets and the signature, and the parts of the URL that may be a token.
func secretsOf(r *Request, sign, proxyAuthorization string) needles {
	ns := needles{{"whsec", len("whsec")}}
	if r.Auth.value != nil {
		ns.addAuthorization(r.Auth.value())
		ns.addShort(r.Auth.value())
	}
	if r.Auth.credentials != nil {
		c := r.Auth.credentials()
		ns.add(c.Secret)
		ns.addURL(c.TokenURL)
	}
	ns.addAuthorization(proxyAuthorization)
	for name, value := range r.Headers {
		if reserved(http.CanonicalHeaderKey(name)) {
			continue
		}
		ns.addAuthorization(value)
	}
	for _, s := range r.Secrets {
		key := strings.TrimPrefix(s.Reveal(), "whsec_")
		ns.add(key)
		if plain, err := base64.StdEncoding.DecodeString(key); err == nil {
			ns.add(string(plain))
		}
	}
	for one := range strings.FieldsSeq(sign) {
		_, digest, _ := strings.Cut(one, ",")
		ns.add(digest)
	}
	ns.addURL(r.URL)
	return ns
}

// addURL adds the parts of a URL that may be a token.
func (ns *needles) addURL(raw string) {
	for _, part := range relay.URLSecrets(raw) {
		// Not the whole query: the names in it are words, and the values are added by themselves.
		if !strings.Contains(part, "=") || !strings.HasSuffix(raw, "?"+part) {
			ns.add(part)
		}
	}
}

// addAuthorization adds what follows the scheme of an authorization or, if the value has another
// form, the value.
func (ns *needles) addAuthorization(value string) {
	scheme, credentials, ok := strings.Cut(value, " ")
	if credentials = strings.TrimSpace(credentials); !ok || !isToken(scheme) || strings.Contains(credentials, " ") {
		ns.add(value)
		return
	}
	ns.add(credentials)
	if strings.EqualFold(scheme, "basic") {
		if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil {
			_, password, _ := strings.Cut(string(plain), ":")
			ns.add(password)
		}
	} else if !strings.EqualFold(scheme, "bearer") {
		ns.add(value) // it may not be a scheme
	}
}

// addShort adds the password of an authorization if it is too short to be searched for within
// words.
func (ns *needles) addShort(value string) {
	_, credentials, _ := strings.Cut(value, " ")
	plain, err := base64.StdEncoding.DecodeString(credentials)
	if err != nil {
		return
	}
	_, password, _ := strings.Cut(string(plain), ":")
	if password != "" && len(password) < shortestSecret {
		*ns = append(*ns, needle{strings.ToLower(password), wholeWord})
	}
}

// add adds a secret, both as it is and in its common encodings.
func (ns *needles) add(secret string) {
	if len(secret) < shortestSecret {
		return
	}
	text := squeeze(secret)
	if other := squeeze(decompose(secret)); other != text { // accents may be removed, or be characters of their own
		ns.addLetters(other)
	}
	if len(text) < shortestSecret { // punctuation, or another script: searched for letter by letter
		*ns = append(*ns, needle{strings.ToLower(withoutBackslashes(secret)), letterByLetter})
		return
	}
	ns.addLetters(text)
	if len(text) < window {
		return
	}
	// The base64 of a text that contains the secret. Its bytes can fall into groups in three ways;
	// the first and the last characters also depend on the neighbours.
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00"[:shift] + secret))
		from := []int{0, 2, 3}[shift]
		if encoded = squeeze(encoded[from : len(encoded)-1]); len(encoded) >= windowEncoded {
			*ns = append(*ns, needle{encoded, windowEncoded})
		}
	}
	var spelled, decimal strings.Builder
	for _, c := range []byte(secret) {
		fmt.Fprintf(&spelled, "0x%02x", c)
		fmt.Fprintf(&decimal, "%d", c)
	}
	*ns = append(*ns, needle{hex.EncodeToString([]byte(secret)), windowEncoded},
		needle{spelled.String(), 4 * window}, needle{decimal.String(), 2 * windowEncoded})
}

func (ns *needles) addLetters(text string) {
	if len(text) >= shortestSecret {
		*ns = append(*ns, needle{text, window})
	}
}

// in reports whether a text may contain one of the secrets. Cut means that the text continues, so
// that the beginning of a secret at its end counts.
func (ns needles) in(text string, cut bool) bool {
	var h haystack
	h.add(text, 2)
	for _, n := range ns {
		switch n.window {
		case letterByLetter:
			if h.holdsPartOf(n.text) {
				return true
			}
			continue
		case wholeWord:
			if h.holdsWord(n.text) {
				return true
			}
			continue
		}
		if len(n.text) <= n.window && h.holds(n.text) {
			return true
		}
		for i := 0; i+n.window <= len(n.text); i++ {
			if h.holds(n.text[i : i+n.window]) {
				return true
			}
		}
		if cut && h.endsWithin(n.text) {
			return true
		}
	}
	return false
}

// squeeze returns the ASCII letters and digits of a text, in lower case: what case, line breaks,
// separators and charsets do not change.
func squeeze(s string) string {
	b := make([]byte, 0, len(s))
	for _, c := range s {
		if c >= 0xff01 && c <= 0xff5e { // full width
			c -= 0xff01 - '!'
		}
		switch {
		case c >= 'A' && c <= 'Z':
			b = append(b, byte(c|0x20))
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b = append(b, byte(c))
		}
	}
	return string(b)
}
