package sender

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxExcerpt  = 256
	excerptRead = 2048 // more than is kept, so that a secret is recognised though it reaches over the end
)

// What stands for an excerpt that is not shown.
const (
	withheldSecret = "[withheld: it repeats a secret of this callback]" //nolint:gosec // it is about one
	withheldBinary = "[withheld: it is compressed or not text]"
)

// excerpt is what is shown of the beginning of a body: text only, and nothing of it if it may repeat a secret. Cut says
// that the body goes on after it.
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

// isBinary reports whether a body is not text, in whatever encoding of it: Latin-1 has few bytes that are not UTF-8.
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

// printable keeps the first 256 bytes of a text on one line: anything that is no printable character is a space, runs
// of spaces are one.
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
