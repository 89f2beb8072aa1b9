package audatex

import (
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
)

// toUTF8 converts a body from UTF-16, or from the Latin-1 or Windows-1252 that its type names, to
// UTF-8. Any other body is returned unchanged. The digits of an order are the same in all of them.
func toUTF8(b []byte, h http.Header) []byte {
	if b = fromUTF16(b); utf8.Valid(b) {
		return b
	}
	_, parameters, _ := mime.ParseMediaType(h.Get("Content-Type"))
	switch strings.ToLower(parameters["charset"]) {
	case "iso-8859-1", "latin1", "windows-1252", "cp1252":
	default:
		return b
	}
	if text, err := charmap.Windows1252.NewDecoder().Bytes(b); err == nil {
		return text
	}
	return b
}

// fromUTF16 converts what .NET writes with a byte order mark. Without one, UTF-16 is recognised by
// the first character, which is ASCII in JSON and XML.
func fromUTF16(b []byte) []byte {
	if len(b) < 2 {
		return b
	}
	endianness := unicode.LittleEndian
	switch {
	case b[0] == 0xff && b[1] == 0xfe, opens(b[0]) && b[1] == 0:
	case b[0] == 0xfe && b[1] == 0xff, b[0] == 0 && opens(b[1]):
		endianness = unicode.BigEndian
	default:
		return b
	}
	// Half a pair becomes U+FFFD. Of a body that was cut, half a character is left out.
	text, err := unicode.UTF16(endianness, unicode.UseBOM).NewDecoder().Bytes(b[:len(b)&^1])
	if err != nil {
		return b
	}
	return text
}

// opens reports whether a document of JSON or XML may begin with c.
func opens(c byte) bool { return c == '{' || c == '[' || c == '"' || c == '<' }

// cutTo applies the limit to a body that has grown by its conversion.
func cutTo(b []byte, limit int64, more bool) ([]byte, bool) {
	if int64(len(b)) > limit {
		return b[:limit], true
	}
	return b, more
}
