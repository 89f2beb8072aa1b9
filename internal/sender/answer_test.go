package sender

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	cases := []struct {
		value, date string
		want        time.Duration
		ok          bool
	}{
		{"", "", 0, false},
		{" ", "", 0, false},
		{"0", "", 0, true},
		{"1", "", time.Second, true},
		{" 120 ", "", 2 * time.Minute, true},
		{"007", "", 7 * time.Second, true},
		{"86400", "", MaxRetryAfter, true},
		{"86401", "", MaxRetryAfter, true},
		{"9223372036854775807", "", MaxRetryAfter, true},
		{strings.Repeat("9", 400), "", MaxRetryAfter, true},
		{"-1", "", 0, false},
		{"+1", "", 0, false},
		{"1.5", "", 0, false},
		{"1s", "", 0, false},
		{"soon", "", 0, false},
		{"Mon, 06 May 2024 07:09:09 GMT", "", time.Minute, true},
		{"Monday, 06-May-24 07:09:09 GMT", "", time.Minute, true},
		{"Mon May  6 07:09:09 2024", "", time.Minute, true},
		{"Mon, 06 May 2024 07:00:00 GMT", "", 0, true},
		{"Mon, 06 May 2030 07:00:00 GMT", "", MaxRetryAfter, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", "", MaxRetryAfter, true},
		// its clock is five hours ahead
		{"Mon, 06 May 2024 12:01:00 GMT", "Mon, 06 May 2024 12:00:00 GMT", time.Minute, true},
		{"Mon, 06 May 2024 07:09:09 GMT", "yesterday", time.Minute, true},
		{"120", "Mon, 06 May 2024 12:00:00 GMT", 2 * time.Minute, true},
		{"2024-05-06T07:09:09Z", "", 0, false},
	}
	for _, c := range cases {
		if got, ok := retryAfter(c.value, c.date, now); got != c.want || ok != c.ok {
			t.Errorf("%q (Date %q): %v, %v; want %v, %v", c.value, c.date, got, ok, c.want, c.ok)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("Mon, 06 May 2024 07:09:09 GMT", "Mon, 06 May 2024 12:00:00 GMT")
	f.Add("99999999999999999999", "x")
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value, date string) {
		got, ok := retryAfter(value, date, now)
		if got < 0 || got > MaxRetryAfter || !ok && got != 0 {
			t.Fatalf("%v, %v", got, ok)
		}
	})
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	cases := []struct{ in, want string }{
		{"", ""},
		{"  plain  text\r\n\twith lines \n", "plain text with lines"},
		{"bell\x07 and \x1b[31mred", "bell and [31mred"},
		{"\xff\xfebinary\x00\x00", "binary"},
		{"Grüße — 你好", "Grüße — 你好"},
		{"right\u202eleft\u200bzero", "right left zero"},
		{strings.Repeat("a", 300), strings.Repeat("a", 256)},
		{strings.Repeat("a", 255) + "é", strings.Repeat("a", 255)},
		{strings.Repeat("a", 254) + "é!", strings.Repeat("a", 254) + "é"},
	}
	for _, c := range cases {
		if got := printable(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x00b\xff\n c")
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text)
		if len(got) > maxExcerpt || !utf8.ValidString(got) || strings.TrimSpace(got) != got ||
			strings.ContainsFunc(got, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Fatalf("%q", got)
		}
	})
}

func TestCheckHeaders(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range maxHeaders + 1 {
		many["X-"+strings.Repeat("a", i+1)] = "b"
	}
	cases := []struct {
		name    string
		headers map[string]string
		want    []string // the names that are refused; "" for all together
		reason  string
	}{
		{"none", nil, nil, ""},
		{"usual", map[string]string{"X-Api-Key": "k", "authorization": "Token x", "Accept": "*/*",
			"x_odd!#$": "ünïcode\tvalue", "X-Empty": ""}, nil, ""},
		{"of the signature", map[string]string{"webhook-id": "x", "Webhook-Timestamp": "1", "WEBHOOK-SIGNATURE": "v1,x",
			"webhook-anything": "x"},
			[]string{"WEBHOOK-SIGNATURE", "Webhook-Timestamp", "webhook-anything", "webhook-id"},
			"set by the relay"},
		{"of the body", map[string]string{"content-type": "x", "Content-Length": "1", "content-encoding": "gzip"},
			[]string{"Content-Length", "content-encoding", "content-type"}, "set by the relay"},
		{"of the connection", map[string]string{"connection": "close", "Host": "x", "TE": "trailers",
			"transfer-encoding": "chunked", "Upgrade": "h2c", "Proxy-Authorization": "x", "Expect": "100-continue",
			"accept-encoding": "gzip", "User-Agent": "x", "Keep-Alive": "1", "Trailer": "x", "Proxy-Connection": "x"},
			[]string{"Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer",
				"Upgrade",
				"User-Agent", "accept-encoding", "connection", "transfer-encoding"}, "set by the relay"},
		{"no name", map[string]string{"": "x"}, []string{""}, "needs a name"},
		{"bad names", map[string]string{"a b": "x", "a:b": "x", "ä": "x", "a\r\nb": "x"},
			[]string{"a\r\nb", "a b", "a:b", "ä"}, "letters, digits"},
		{"bad values", map[string]string{"A": "x\r\ny: z", "B": "x\x00", "C": "\x7f"}, []string{"A", "B", "C"},
			"control character"},
		{"padded values", map[string]string{"A": " x", "B": "x\n"}, []string{"A", "B"}, "white space"},
		{"long", map[string]string{"A": strings.Repeat("x", maxHeaderValue+1)}, []string{"A"}, "longer than 4096"},
		{"long name", map[string]string{strings.Repeat("a", maxHeaderName+1): "x"},
			[]string{strings.Repeat("a", maxHeaderName+1)}, "longer than 128"},
		{"twice", map[string]string{"X-A": "1", "x-a": "2"}, []string{"x-a"}, `the same header as "X-A"`},
		{"many", many, []string{""}, "at most 32"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := CheckHeaders(c.headers)
			if len(c.want) == 0 {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			errs, ok := err.(HeaderErrors) //nolint:errorlint // the contract is the type itself
			if !ok || len(errs) != len(c.want) {
				t.Fatalf("%#v, want %d of them", err, len(c.want))
			}
			for i, e := range errs {
				if e.Name != c.want[i] || !strings.Contains(e.Reason, c.reason) ||
					!strings.Contains(err.Error(), e.Reason) {
					t.Errorf("%q: %s; want %q: %s", e.Name, e.Reason, c.want[i], c.reason)
				}
			}
		})
	}
}
