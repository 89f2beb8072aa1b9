package audatex

import (
	"bytes"
	"encoding/json"
	"html"
	"regexp"
	"strings"
)

const (
	// shortestToken is the length from which a value found only by its name counts as a token.
	shortestToken = 8
	// maxScans bounds how many names are examined in a response.
	maxScans = 1000
)

// scan is the last resort for a response in none of the forms that read knows, or with something in
// front of it: a JSONP call, a page around JSON, attributes, names without quotes, lines. A token
// is what follows its name. Two tokens count only together: a single value may be the description
// of an error.
func (f *tokenFields) scan(b []byte) {
	if f.complete() || json.Valid(b) {
		return
	}
	var found tokenFields
	for _, text := range []string{string(b), html.UnescapeString(string(b))} {
		found.scanText(text)
		// In JSON within a text the quotes are escaped.
		found.scanText(strings.ReplaceAll(text, `\"`, `"`))
		if found.complete() {
			break
		}
	}
	if f[accessToken].value == "" {
		f[accessToken] = found[accessToken]
	}
	if f[refreshToken].value == "" && found.complete() {
		f[refreshToken] = found[refreshToken]
	}
	if f[expiresIn].value == "" {
		f[expiresIn] = found[expiresIn]
	}
}

// scanText looks for names and the values after them, regardless of what the text is. What was
// found before is kept.
func (f *tokenFields) scanText(text string) {
	for _, at := range scannedName.FindAllStringIndex(text, maxScans) {
		name, after := text[at[0]:at[1]], text[at[1]:]
		for field, known := range tokenFieldNames {
			other := tokenField(field) == errorCode || tokenField(field) == scope
			if !strings.EqualFold(name, known) || other || f[field].value != "" {
				continue
			}
			if value := scanValue(after); tokenField(field) == expiresIn || len(value) >= shortestToken {
				f.put(known, value)
			}
		}
	}
}

// scannedName matches a name with an underscore, as those that are looked for have.
var scannedName = regexp.MustCompile(`[A-Za-z0-9]*_[A-Za-z0-9_]*`)

// scanValue returns the value after a name: what follows a colon, an equals sign or the end of a
// tag, up to the quote that it began with, or to where a token must have ended.
func scanValue(text string) string {
	const between = " \t\r\n\"'`:=>"
	begin := strings.TrimLeft(text, between)
	separator := text[:len(text)-len(begin)]
	if !strings.ContainsAny(separator, ":=>") {
		return ""
	}
	if cdata, found := strings.CutPrefix(begin, "<![CDATA["); found {
		begin, separator = cdata, ""
	}
	if n := len(separator); n > 0 && strings.IndexByte("\"'`", separator[n-1]) >= 0 {
		quote := separator[n-1:]
		value, _, ended := strings.Cut(begin, quote)
		if !ended {
			return ""
		}
		if whole, ok := jsonText(bytes.Join([][]byte{nil, []byte(value), nil}, []byte{'"'})); ok {
			return whole
		}
		return ""
	}
	end := strings.IndexAny(begin, " \t\r\n\"'`<>&,;(){}[]\\")
	if end < 0 {
		return begin
	}
	return begin[:end]
}
