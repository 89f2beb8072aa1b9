package audatex

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// defaultLife is the documented life of an access token, for a response without one.
	defaultLife = 1800 * time.Second
	// longestLife bounds the life that is believed; a token that ends earlier is found out by a
	// 401.
	longestLife = 24 * time.Hour
	// maxTokenBody bounds what is read of a response of the token endpoint.
	maxTokenBody = 1 << 20
	// maxAccessToken bounds an access token, as every request carries it in a header.
	maxAccessToken = 32 << 10
	// maxRefreshToken bounds a refresh token: what is longer is none, and could not be stored.
	maxRefreshToken = 64 << 10
	// maxTokenDepth bounds how deep the tokens may be nested in other values.
	maxTokenDepth = 4
)

// tokenAnswer is what could be read of a response of the token endpoint. A rotated refresh token
// exists nowhere else, so every field is parsed by itself and found no matter what is wrong with
// the others, or with the rest of the response.
type tokenAnswer struct {
	// access and refresh are empty if they are missing or not texts.
	access, refresh relay.Secret
	// life is the life of the access token; the documented one if the response has none that can be
	// read.
	life time.Duration
	// code is OAuth's error code.
	code string
	// scopes is nil if the response does not contain what was granted.
	scopes []string
}

// readTokenAnswer parses a JSON object, even if it is cut, has members twice or in other spellings,
// or is nested in an array, a string or another object; a form (as in drafts of RFC 6749); or XML,
// which the vendor's API offers beside JSON. From anything else it takes the tokens by their names;
// see scan.
func readTokenAnswer(body []byte) tokenAnswer {
	var f tokenFields
	f.read(trimJSON(body), maxTokenDepth)
	f.scan(trimJSON(body))
	a := tokenAnswer{life: defaultLife, code: f[errorCode].value}
	if refresh := f[refreshToken].value; len(refresh) <= maxRefreshToken {
		a.refresh = relay.NewSecret(refresh)
	}
	access := withoutScheme(f[accessToken].value)
	if len(access) <= maxAccessToken && !strings.ContainsFunc(access, notInToken) {
		a.access = relay.NewSecret(access)
	}
	if life, ok := lifeOf(f[expiresIn].value); ok {
		a.life = life
	}
	a.scopes = scopesOf(f[scope].value)
	return a
}

// scopesOf parses a list of scopes: separated by spaces in RFC 6749, by commas elsewhere.
func scopesOf(text string) []string {
	if len(text) > maxText {
		return nil
	}
	scopes := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ';' || unicode.IsSpace(r) })
	if len(scopes) == 0 {
		return nil
	}
	return scopes
}

// notInToken reports whether a character cannot be part of an access token in a header (RFC 6749,
// appendix A.12).
func notInToken(r rune) bool { return r <= ' ' || r > '~' }

// withoutScheme removes the scheme of an Authorization header from an access token.
func withoutScheme(access string) string {
	if scheme, token, found := strings.Cut(access, " "); found && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return access
}

// lifeOf parses expires_in: seconds, as an integer or not, as a number or as text. It must be
// between a second and a year.
func lifeOf(text string) (time.Duration, bool) {
	const year = 366 * 24 * 60 * 60
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 1 && seconds <= year) { // written so that NaN fails
		return 0, false
	}
	return min(time.Duration(seconds*float64(time.Second)), longestLife), true
}

// tokenField is a field of a token response that the relay uses.
type tokenField int

const (
	accessToken tokenField = iota
	refreshToken
	expiresIn
	errorCode
	scope
	tokenFieldCount
)

var tokenFieldNames = [tokenFieldCount]string{"access_token", "refresh_token", "expires_in", "error", "scope"}

// tokenFields are the fields found so far. Among several, the exactly spelled one counts, and among
// those the last.
type tokenFields [tokenFieldCount]struct {
	value string
	exact bool
}

// complete reports whether both tokens were found.
func (f *tokenFields) complete() bool {
	return f[accessToken].value != "" && f[refreshToken].value != ""
}

// within parses a nested value and, if it contains a token, takes its known fields.
func (f *tokenFields) within(b []byte, depth int) {
	if f.complete() {
		return
	}
	var inner tokenFields
	if inner.read(b, depth); inner[accessToken].value == "" && inner[refreshToken].value == "" {
		return
	}
	for field := range f {
		if f[field].value == "" {
			f[field] = inner[field]
		}
	}
}

// put sets a field to a value, unless the value is empty.
func (f *tokenFields) put(name, value string) {
	value = strings.TrimFunc(value, notInValue)
	if value == "" || len(name) > 32 {
		return
	}
	for field, known := range tokenFieldNames {
		exact := name == known
		if !exact && bareName(name) != bareName(known) || f[field].exact && !exact {
			continue
		}
		f[field].value, f[field].exact = value, exact
	}
}

// notInValue reports whether a character around a value does not belong to it: white space, byte
// order marks.
func notInValue(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }

// bareName returns a member's name without case and punctuation: refreshToken and Refresh-Token
// become refreshtoken.
func bareName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// read parses one value; depth is how many more may be nested in it.
func (f *tokenFields) read(b []byte, depth int) {
	if b = trimJSON(b); len(b) == 0 || depth == 0 {
		return
	}
	switch b[0] {
	case '{':
		f.readObject(b[1:], depth)
	case '[':
		eachPart(b[1:], ']', func(element []byte, _ bool) { f.within(element, depth-1) })
	case '"': // a document that was encoded twice
		if s, ok := jsonText(b); ok {
			f.read([]byte(s), depth-1)
		}
	case '<':
		f.readXML(b)
	default:
		f.readForm(b)
	}
}

// readObject takes the members of an object and, if a token is missing among them, those of the
// objects in it.
func (f *tokenFields) readObject(b []byte, depth int) {
	var inner [][]byte
	eachPart(b, '}', func(member []byte, whole bool) {
		if len(member) == 0 || member[0] != '"' {
			return
		}
		end := stringEnd(member)
		name, ok := jsonText(member[:end])
		value, found := bytes.CutPrefix(trimSpace(member[end:]), []byte(":"))
		if value = trimSpace(value); !ok || !found || len(value) == 0 {
			return
		}
		switch c := value[0]; {
		case c == '"':
			// At the end of a cut response only a string shows that it is complete. Text after it
			// does not belong to it.
			text, ok := jsonText(value[:stringEnd(value)])
			if !ok {
				return
			}
			if f.put(name, text); strings.HasPrefix(strings.TrimSpace(text), "{") { // a document in a text
				inner = append(inner, []byte(text))
			}
		case c == '[' && bareName(name) == tokenFieldNames[scope]:
			var list []string
			if json.Unmarshal(value, &list) == nil {
				f.put(name, strings.Join(list, " "))
			}
		case c == '{' || c == '[':
			inner = append(inner, value)
		case whole && (c == '-' || c >= '0' && c <= '9') && bareName(name) == bareName(tokenFieldNames[expiresIn]):
			f.put(name, string(value)) // all other fields are texts
		case whole && c >= '1' && c <= '9' && len(value) >= shortestToken &&
			bareName(name) != bareName(tokenFieldNames[errorCode]):
			// a token without quotes
			digits := string(value)
			if strings.Trim(digits, "0123456789") == "" && bareName(name) != tokenFieldNames[scope] {
				f.put(name, digits)
			}
		}
	})
	for _, value := range inner {
		f.within(value, depth-1)
	}
}

func (f *tokenFields) readForm(b []byte) {
	if !bytes.ContainsRune(b, '=') {
		return
	}
	values, _ := url.ParseQuery(string(b)) // the error is about one pair; the others are returned
	for name, v := range values {
		last := strings.TrimSpace(v[len(v)-1])
		if !strings.ContainsAny(last, "\r\n") { // otherwise it has lines and is not a form
			f.put(name, last)
		}
	}
}

// readXML takes the texts of elements by their names, wherever they are.
func (f *tokenFields) readXML(b []byte) {
	d := newXMLDecoder(b)
	d.Strict = false
	name := ""
	var text strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return
		}
		switch token := token.(type) {
		case xml.StartElement:
			name = token.Name.Local
			text.Reset()
		case xml.CharData:
			text.Write(token)
		case xml.EndElement:
			if name == token.Name.Local {
				f.put(name, text.String())
			}
			name = ""
			text.Reset()
		}
	}
}

// eachPart calls visit for each element of an array, or member of an object, at the beginning of b,
// without the opening bracket. whole is false for the last one if the closing bracket is missing.
func eachPart(b []byte, closing byte, visit func(part []byte, whole bool)) {
	for {
		end, closed := partEnd(b, closing)
		if end < 0 {
			visit(trimSpace(b), false)
			return
		}
		visit(trimSpace(b[:end]), true)
		if closed {
			return
		}
		b = b[end+1:]
	}
}

// stringEnd returns the index of the end of the JSON string at the start of b.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// jsonText decodes a complete JSON string. One with unescaped characters that must be escaped is
// taken as it is.
func jsonText(b []byte) (string, bool) {
	if len(b) < 2 || b[len(b)-1] != '"' {
		return "", false
	}
	var s string
	if json.Unmarshal(b, &s) == nil {
		return s, true
	}
	if s = string(b[1 : len(b)-1]); strings.ContainsAny(s, `\"`) {
		return "", false
	}
	return s, true
}
