package sender

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxExcerpt  = 256
	excerptRead = 2048 // more than is kept, so that a secret is recognised even if it continues after the end
)

// The texts that replace an excerpt that must not be shown.
const (
	withheldSecret = "[withheld: it repeats a secret of this callback]" //nolint:gosec // it is about one
	withheldBinary = "[withheld: it is compressed or not text]"
)

// excerpt returns the part of a body's beginning that may be shown: only text, and nothing if it
// may contain a secret. Cut is set if the body continues after it.
func excerpt(body []byte, cut, compressed bool, secrets func() needles) string {
	if len(body) == 0 {
		return ""
	}
	if compressed || isBinary(body) {
		return withheldBinary
	}
	shown := printable(string(body))
	if shown == "" {
		return ""
	}
	if secrets().in(string(body), cut) {
		return withheldSecret
	}
	return shown
}

// isBinary reports whether a body is not text in any encoding: Latin-1 has few bytes that are not
// UTF-8.
func isBinary(body []byte) bool {
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) || bytes.IndexByte(body, 0) >= 0 {
		return true
	}
	odd := 0
	for rest := body; len(rest) > 0; {
		c, n := utf8.DecodeRune(rest)
		if c == utf8.RuneError && n == 1 || unicode.IsControl(c) && !unicode.IsSpace(c) {
			odd++
		}
		rest = rest[n:]
	}
	return odd > 2 && odd > len(body)/10
}

// printable returns the first 256 bytes of a text in one line. Runs of white space and unprintable
// characters become one space.
func printable(text string) string {
	var b strings.Builder
	space := false
	for _, c := range text {
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) || unicode.IsSpace(c) {
			space = b.Len() > 0
			continue
		}
		s := string(c)
		if space {
			s = " " + s
		}
		if b.Len()+len(s) > maxExcerpt {
			break
		}
		b.WriteString(s)
		space = false
	}
	return b.String()
}
