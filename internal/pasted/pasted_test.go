package pasted

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	t.Parallel()
	const bom = "\ufeff"
	for _, tt := range []struct {
		value, want string
		kind        Kind
		err         error
	}{
		{value: "abc", want: "abc"},
		{value: ""},
		{value: " \t\r\n"},
		{value: " abc\r\n", want: "abc"},
		{value: bom + "abc", want: "abc"},
		{value: "abc" + bom, want: "abc"},
		{value: "\u00ef\u00bb\u00bfabc", want: "abc"},
		{value: bom + " \n" + bom + "abc\u00a0\u200b\u2028", want: "abc"},
		{value: "a b", want: "a b"},
		{value: "a\tb", err: ErrControl},
		{value: "a\r\nb", err: ErrControl},
		{value: "a\x00", err: ErrControl},
		{value: "a\u0085b", err: ErrControl},
		{value: "a\x7f", err: ErrControl},
		{value: "a\u200bb", err: ErrInvisible},
		{value: "a" + bom + "b", err: ErrInvisible},
		{value: `"abc"`, err: ErrQuoted},
		{value: " 'abc'\n", err: ErrQuoted},
		{value: "\u201cabc\u201d", err: ErrQuoted},
		{value: `"abc`, err: ErrQuoted},
		{value: `abc'`, err: ErrQuoted},
		{value: `"`, err: ErrQuoted},
		{value: "\xff\xfea\x00b\x00", err: ErrUTF16},
		{value: "\xfe\xff\x00a\x00b", err: ErrUTF16},
		{value: "\u00ff\u00fea\x00b\x00", err: ErrUTF16},
		{value: "a\x00b\x00c\x00", err: ErrUTF16},
		{value: "a\xffb", err: ErrNotUTF8},

		{kind: Secret, value: " a\u00a0", want: "a"},
		{kind: Secret, value: `"abc`, want: `"abc`},
		{kind: Secret, value: `"`, want: `"`},
		{kind: Secret, value: `"abc"`, err: ErrQuoted},
		{kind: Secret, value: "\u2018abc\u2019", err: ErrQuoted},
		{kind: Secret, value: "a\nb", err: ErrControl},

		{kind: Password, value: " abc \r\n", want: " abc "},
		{kind: Password, value: bom + " abc\n\n", want: " abc"},
		{kind: Password, value: "\u00a0abc", want: "\u00a0abc"},
		{kind: Password, value: "abc\t", err: ErrControl},
		{kind: Password, value: "a\nb", err: ErrControl},
		{kind: Password, value: `"abc"`, err: ErrQuoted},
		{kind: Password, value: `it's`, want: `it's`},

		{kind: Document, value: bom + "{\r\n\t\"a\": 1\n}\n", want: "{\r\n\t\"a\": 1\n}"},
		{kind: Document, value: `'{"a":1}'`, err: ErrQuoted},
		{kind: Document, value: "{\x01}", err: ErrControl},
		{kind: Document, value: "\xff\xfe{\x00}\x00", err: ErrUTF16},
	} {
		got, trimmed, err := Clean(tt.value, tt.kind)
		if got != tt.want || !errors.Is(err, tt.err) || trimmed != (err == nil && got != tt.value) {
			t.Errorf("Clean(%q, %d) = %q, %v, %v; want %q, %v", tt.value, tt.kind, got, trimmed, err, tt.want, tt.err)
		}
	}
}

// FuzzClean: what is clean stays as it is, and is part of what was given.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"abc", "\ufeffabc\r\n", `"a"`, "\xff\xfea\x00",
		"\u200b\u00a0a\x85", "\u00ef\u00bb\u00bf"} {
		for kind := Token; kind <= Document; kind++ {
			f.Add(s, int(kind))
		}
	}
	f.Fuzz(func(t *testing.T, value string, kind int) {
		if kind < int(Token) || kind > int(Document) {
			return
		}
		got, _, err := Clean(value, Kind(kind))
		if err != nil {
			if got != "" || strings.Contains(err.Error(), value) && len(value) > 4 {
				t.Fatalf("%q with %v", got, err)
			}
			return
		}
		if !strings.Contains(value, got) || !utf8.ValidString(got) {
			t.Fatalf("%q became %q", value, got)
		}
		if again, trimmed, err := Clean(got, Kind(kind)); again != got || trimmed || err != nil {
			t.Fatalf("%q became %q and then %q (%v)", value, got, again, err)
		}
	})
}
