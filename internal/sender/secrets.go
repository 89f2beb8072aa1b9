package sender

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// Frameworks print the headers, the query or the whole of a failed request in their error pages. An attempt is stored
// in the clear and shown, so an excerpt is dropped as a whole when any part of a secret may be in it: in any case,
// escaped, encoded, broken over lines, or cut off. Taking out what is recognised would leave what is not.

// window is how long a part of a secret must be to be recognised; encoded ones are looked for by longer parts, as
// numbers of other things look like them. A secret shorter than this must be there as a whole, and one below
// shortestSecret is not looked for, as it would be found in every text, but for a password: as a word of its own.
const (
	window         = 6
	windowEncoded  = 10
	shortestSecret = 4

	// In place of a window: a secret without letters or digits of ASCII, of which windowRaw characters in a row are
	// looked for, and one that is looked for as a word only.
	letterByLetter = 0
	wholeWord      = -1
	windowRaw      = 4
)

// needle is a secret in the form in which it is looked for; see squeeze.
type needle struct {
	text   string
	window int
}

type needles []needle

// secretsOf collects what an answer to a request must not be shown repeating: credentials, the client's own headers,
// signing secrets and the signature, and what of the URL may be a token.
func secretsOf(r *Request, sign, proxyAuthorization string) needles {
	ns := needles{{"whsec", len("whsec")}}
	if !r.Auth.IsZero() {
		ns.addAuthorization(r.Auth.value())
		ns.addShort(r.Auth.value())
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
	for _, part := range relay.URLSecrets(r.URL) {
		// Not the whole of a query: the names in it are words, and the values are there by themselves.
		if !strings.Contains(part, "=") || !strings.HasSuffix(r.URL, "?"+part) {
			ns.add(part)
		}
	}
	return ns
}

// addAuthorization adds what follows the scheme of an authorization, if the value has that form, else the value.
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
		ns.add(value) // it may be no scheme
	}
}

// addShort adds the password of an authorization that is too short to be looked for within words.
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

// add adds a secret, as it is and as it is commonly encoded.
func (ns *needles) add(secret string) {
	if len(secret) < shortestSecret {
		return
	}
	text := squeeze(secret)
	if other := squeeze(decompose(secret)); other != text { // letters with accents may lose them, or be two characters
		ns.addLetters(other)
	}
	if len(text) < shortestSecret { // signs, or another script: looked for letter by letter
		*ns = append(*ns, needle{strings.ToLower(withoutBackslashes(secret)), letterByLetter})
		return
	}
	ns.addLetters(text)
	if len(text) < window {
		return
	}
	// Base64 of a text that holds the secret somewhere: by which of three ways its bytes fall into groups. The first and
	// the last characters depend on the neighbours too.
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

// in reports whether a text may repeat one of the secrets. Cut says that the text goes on, so that the beginning of a
// secret at its end is one.
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

// squeeze leaves the letters and digits of ASCII, in lower case: all that no case, line break, separator or charset
// changes.
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
