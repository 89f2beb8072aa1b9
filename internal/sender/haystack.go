package sender

import (
	"encoding/base64"
	"html"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxUnescapes is how often a text is unescaped: for example, a proxy may escape an error page that
// escapes a URL that was already escaped.
const maxUnescapes = 5

// haystack is a text in all forms in which a secret is searched for in it.
type haystack struct {
	raw      []string // lower case, unescaped
	squeezed []string
	seen     [1 << 8]uint64 // the windows in the text, by hash: most of those that are searched for are not there
}

// add adds a text, the results of unescaping it repeatedly, and the texts encoded in it by base64,
// to the given depth.
func (h *haystack) add(text string, depth int) {
	for range maxUnescapes {
		h.addForm(text)
		if without := withoutTags(text); without != text {
			h.addForm(without)
		}
		if decoded := unquote(text); decoded != text {
			h.addForm(decoded)
		}
		if depth > 0 {
			for decoded := range decodings(text) {
				h.add(decoded, depth-1)
			}
		}
		plain := unescape(text)
		if plain == text {
			break
		}
		text = plain
	}
}

func (h *haystack) addForm(text string) {
	h.raw = append(h.raw, strings.ToLower(withoutBackslashes(text)))
	h.addSqueezed(squeeze(text))
	if other := decompose(text); other != text {
		h.addSqueezed(squeeze(other))
	}
}

func (h *haystack) addSqueezed(s string) {
	if slices.Contains(h.squeezed, s) {
		return
	}
	h.squeezed = append(h.squeezed, s)
	for i := 0; i+shortestSecret <= len(s); i++ {
		word, bit := hash(s[i:])
		h.seen[word] |= bit
	}
}

// hash returns the place in seen for the first characters of a text.
func hash(s string) (word int, bit uint64) {
	_ = s[shortestSecret-1]
	x := uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
	x *= 0x9e3779b1
	return int(x >> 24), 1 << (x >> 18 & 63)
}

func (h *haystack) holds(part string) bool {
	if word, bit := hash(part); h.seen[word]&bit == 0 {
		return false
	}
	return slices.ContainsFunc(h.squeezed, func(s string) bool { return strings.Contains(s, part) })
}

// holdsPartOf reports whether the text contains a few consecutive characters of a secret, or all of
// a shorter secret.
func (h *haystack) holdsPartOf(secret string) bool {
	characters := []rune(secret)
	n := min(windowRaw, len(characters))
	for i := 0; i+n <= len(characters) && n > 0; i++ {
		part := string(characters[i : i+n])
		if slices.ContainsFunc(h.raw, func(s string) bool { return strings.Contains(s, part) }) {
			return true
		}
	}
	return false
}

// holdsWord reports whether the text contains a word by itself.
func (h *haystack) holdsWord(word string) bool {
	within := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }
	return slices.ContainsFunc(h.raw, func(s string) bool {
		for {
			before, after, found := strings.Cut(s, word)
			if !found {
				return false
			}
			last, _ := utf8.DecodeLastRuneInString(before)
			next, _ := utf8.DecodeRuneInString(after)
			if !within(last) && !within(next) {
				return true
			}
			_, size := utf8.DecodeRuneInString(s[len(before):])
			s = s[len(before)+size:]
		}
	})
}

// decompose splits letters with accents into letter and accent.
func decompose(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return norm.NFKD.String(s)
		}
	}
	return s
}

// withoutBackslashes removes backslashes, which may or may not be doubled in an escaped text.
func withoutBackslashes(s string) string { return strings.ReplaceAll(s, `\`, "") }

// endsWithin reports whether the text ends with the beginning of a secret, too short to be a
// window.
func (h *haystack) endsWithin(secret string) bool {
	for n := 3; n < min(window, len(secret)); n++ {
		if slices.ContainsFunc(h.squeezed, func(s string) bool { return strings.HasSuffix(s, secret[:n]) }) {
			return true
		}
	}
	return false
}

// withoutTags removes everything in angle brackets: a page may mark up a part of what it repeats.
func withoutTags(s string) string {
	if strings.IndexByte(s, '<') < 0 {
		return s
	}
	var b strings.Builder
	for {
		before, tag, ok := strings.Cut(s, "<")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		if _, s, ok = strings.Cut(tag, ">"); !ok {
			return b.String()
		}
	}
}

// unescape undoes one layer of the escapes of HTML, JSON, URLs and programming languages.
func unescape(s string) string {
	if strings.IndexByte(s, '&') >= 0 {
		s = html.UnescapeString(s)
	}
	if !strings.ContainsAny(s, `\%`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c, n := escaped(s[i:])
		if n == 0 {
			b, i = append(b, s[i]), i+1
			continue
		}
		character := n > 1 && s[i+1]|0x20 == 'u' // the other escapes stand for one byte, mostly of UTF-8
		switch i += n; {
		case c < 0:
		case character && utf8.ValidRune(c):
			b = utf8.AppendRune(b, c)
		case c <= 0xff:
			b = append(b, byte(c))
		}
	}
	return string(b)
}

// escaped reads the escape at the beginning of s. It returns its character, or -1 for none, and its
// length, 0 if there is no escape.
func escaped(s string) (c rune, n int) {
	number := func(from, digits, base int) (rune, int) {
		if from+digits > len(s) {
			return 0, 0
		}
		x, err := strconv.ParseUint(s[from:from+digits], base, 31)
		if err != nil {
			return 0, 0
		}
		return rune(x), from + digits
	}
	switch {
	case len(s) < 2:
		return 0, 0
	case s[0] == '%' && (s[1] == 'u' || s[1] == 'U'):
		return number(2, 4, 16)
	case s[0] == '%':
		return number(1, 2, 16)
	case s[0] != '\\':
		return 0, 0
	}
	switch s[1] {
	case 'x', 'X':
		c, n = number(2, 2, 16)
	case 'u':
		if pair, n := surrogates(s); n > 0 {
			return pair, n
		}
		if end := strings.IndexByte(s[:min(len(s), 12)], '}'); s[2:] != "" && s[2] == '{' && end > 3 {
			if c, n = number(3, end-3, 16); n > 0 {
				return c, n + 1
			}
		}
		c, n = number(2, 4, 16)
	case 'U':
		c, n = number(2, 8, 16)
	case '0', '1', '2', '3', '4', '5', '6', '7':
		for digits := 3; digits > 0 && n == 0; digits-- {
			c, n = number(1, digits, 8)
		}
	case 'n', 'r', 't', 'b', 'f', 'v', '\n', '\r':
		return -1, 2
	}
	if n > 0 {
		return c, n
	}
	return -1, 1 // the backslash alone: \/ and \"
}

// surrogates reads two escapes that form one character, with any number of backslashes before the
// second.
func surrogates(s string) (c rune, n int) {
	const one, digits = len(`\u0000`), 4
	if len(s) < 2*one {
		return 0, 0
	}
	rest := strings.TrimLeft(s[one:], `\`)
	if len(rest) == len(s)-one || len(rest) <= digits || rest[0] != 'u' {
		return 0, 0
	}
	high, err := strconv.ParseUint(s[2:one], 16, 16)
	low, err2 := strconv.ParseUint(rest[1:1+digits], 16, 16)
	if c = utf16.DecodeRune(rune(high), rune(low)); err != nil || err2 != nil || c == utf8.RuneError {
		return 0, 0
	}
	return c, len(s) - len(rest) + 1 + digits
}

// unquote undoes quoted-printable. In other texts an equals sign may precede two hex digits by
// chance, so the result is searched in addition to the text, not instead of it.
func unquote(s string) string {
	if strings.IndexByte(s, '=') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if x, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b, i = append(b, byte(x)), i+2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// decodings returns the texts that may be encoded in a text by base64: runs of its alphabet, with
// or without line breaks, decoded from each of the four places where a group may begin.
func decodings(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		joined := strings.Map(func(c rune) rune {
			switch {
			case unicode.IsSpace(c):
				return -1
			case c == '-':
				return '+'
			case c == '_':
				return '/'
			}
			return c
		}, text)
		for _, s := range []string{text, joined} {
			for run := range strings.FieldsFuncSeq(s, func(c rune) bool { return !isBase64(c) }) {
				for from := 0; from < 4 && len(run)-from >= 8; from++ {
					part := run[from:]
					decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(part)))
					n, _ := base64.RawStdEncoding.Decode(decoded, []byte(part[:len(part)/4*4]))
					if decoded = decoded[:n]; isMostlyText(decoded) && !yield(string(decoded)) {
						return
					}
				}
			}
			if joined == text {
				return
			}
		}
	}
}

// isMostlyText distinguishes encoded text from what was not base64, or begins elsewhere.
func isMostlyText(b []byte) bool {
	text := 0
	for _, c := range b {
		if c >= ' ' && c < 0x7f {
			text++
		}
	}
	return text >= len(b)*3/4
}

func isBase64(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}
