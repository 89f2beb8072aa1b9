// Package pasted cleans secrets, names and addresses that people copy into settings, files and requests, as a slip
// would else show only later, as a refused login. It removes quotes, spaces and invisible characters that cannot be
// meant, refuses what is ambiguous, and never changes what may be meant. Begin reading at Clean.
package pasted

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is what a value may hold.
type Kind int

const (
	// Token is made by a machine out of printable characters, none of them a quote: a URL, an address, a refresh
	// token.
	Token Kind = iota
	// Secret may hold any printable characters; white space at its ends is not meant.
	Secret
	// Password is chosen by a person: of what is around it only line ends are not meant.
	Password
	// Document may have several lines.
	Document
)

// What Clean may refuse. None of these repeats any part of the value.
var (
	ErrUTF16     = errors.New("is UTF-16: save it as UTF-8")
	ErrNotUTF8   = errors.New("is not UTF-8")
	ErrQuoted    = errors.New("is in quotes: give it without them")
	ErrControl   = errors.New("holds a control character, such as a tab or a line break")
	ErrInvisible = errors.New("holds an invisible character")
)

// Clean returns the value as it is meant. White space and byte order marks around it are taken away, of a Password
// line ends and marks only; trimmed reports that, for a warning. UTF-16, quotes around the value and control
// characters within it are refused.
func Clean(value string, kind Kind) (clean string, trimmed bool, err error) {
	if isUTF16(value) {
		return "", false, ErrUTF16
	}
	if !utf8.ValidString(value) {
		return "", false, ErrNotUTF8
	}
	clean = value
	for before := ""; clean != before; {
		before = clean
		clean = strings.TrimPrefix(clean, "\u00ef\u00bb\u00bf") // a byte order mark, read as Latin-1
		if kind == Password {
			clean = strings.Trim(clean, "\r\n\ufeff")
		} else {
			clean = strings.TrimFunc(clean, around)
		}
	}
	switch {
	case quoted(clean, kind):
		return "", false, ErrQuoted
	case strings.ContainsFunc(clean, func(r rune) bool { return control(r) && (kind != Document || !lineBreak(r)) }):
		return "", false, ErrControl
	case kind == Token && strings.ContainsFunc(clean, invisible):
		return "", false, ErrInvisible
	}
	return clean, clean != value, nil
}

// isUTF16 reports whether a text is UTF-16 with a byte order mark, the same read as Latin-1, or ASCII in UTF-16
// without one: every other byte is null then.
func isUTF16(s string) bool {
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\u00ff\u00fe", "\u00fe\u00ff"} {
		if strings.HasPrefix(s, mark) {
			return true
		}
	}
	return len(s) > 3 && 3*strings.Count(s, "\x00") >= len(s)
}

// around reports whether a character cannot be meant at the end of a value.
func around(r rune) bool { return unicode.IsSpace(r) || lineBreak(r) || invisible(r) }

// invisible characters are byte order marks, joiners, marks of direction and the like.
func invisible(r rune) bool { return unicode.Is(unicode.Cf, r) }

func control(r rune) bool { return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) }

func lineBreak(r rune) bool {
	return r == '\n' || r == '\r' || r == '\t' || unicode.In(r, unicode.Zl, unicode.Zp)
}

const quotes = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a"

// quoted reports whether a value is in quotes. A token holds none at all, so one at either end is enough there.
func quoted(s string, kind Kind) bool {
	first, _ := utf8.DecodeRuneInString(s)
	last, size := utf8.DecodeLastRuneInString(s)
	opens, closes := strings.ContainsRune(quotes, first), strings.ContainsRune(quotes, last)
	if s == "" {
		return false
	}
	if kind == Token {
		return opens || closes
	}
	return opens && closes && len(s) > size
}
