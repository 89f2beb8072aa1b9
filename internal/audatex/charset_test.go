package audatex

import (
	"net/http"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzCharset: what is UTF-8 already stays as it is, unless it is UTF-16; nothing grows beyond what
// UTF-8 needs.
func FuzzCharset(f *testing.F) {
	for _, contentType := range []string{"application/json; charset=utf-8", "text/plain; charset=\"ISO-8859-1\"",
		"x; charset=cp1252; a", ";"} {
		f.Add(contentType, []byte(`[{"Topic":"é"}]`))
		f.Add(contentType, []byte("caf\xe9 \x80\x81"))
		f.Add(contentType, []byte("\xff\xfe[\x00]\x00"))
		f.Add(contentType, []byte("\xfe\xff\x00[\xd8\x3d\xde\x00\xd8"))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		got := toUTF8(body, http.Header{"Content-Type": {contentType}})
		if len(got) > 3*len(body) {
			t.Errorf("%d bytes became %d", len(body), len(got))
		}
		if utf8.Valid(body) && string(fromUTF16(body)) == string(body) && string(got) != string(body) {
			t.Errorf("%q became %q", body, got)
		}
	})
}

// FuzzRetryAfter: what the vendor asks for is no time in the past.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Add("7", "")
	f.Add("Sun, 01 Mar 2026 12:00:30 GMT", "Sun, 01 Mar 2026 12:00:00 GMT")
	f.Add("Sunday, 01-Mar-26 12:00:30 GMT", "Sun Mar  1 12:00:00 2026")
	f.Add("99999999999999999999", "x")
	f.Add("Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, after, date string) {
		got, said := retryAfter(http.Header{"Retry-After": {after}, "Date": {date}}, now)
		if got < 0 || !said && got != 0 {
			t.Errorf("%s, %t", got, said)
		}
	})
}
