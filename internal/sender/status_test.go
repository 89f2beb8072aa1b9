package sender_test

import (
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
)

// The status decides, and not what follows the status line. Each text is what comes after the
// status code.
func TestStatusLineDecides(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"no reason":                   "\r\nContent-Length: 0\r\n\r\n",
		"a blank for a reason":        " \r\nContent-Length: 0\r\n\r\n",
		"a tab before the reason":     "\tOK\r\nContent-Length: 0\r\n\r\n",
		"a long reason":               " " + strings.Repeat("x", 100<<10) + "\r\n\r\n",
		"a reason in another charset": " \xff\xfe\r\nContent-Length: 0\r\n\r\n",
		"control bytes in the reason": " O\x00K\x1b\r\nContent-Length: 0\r\n\r\n",
		"a sub-status":                ".5 OK\r\nContent-Length: 0\r\n\r\n",
		"CR alone":                    " OK\rContent-Length: 0\r\r",
		"cut between CR and LF":       " OK\r",
		"bare LF":                     " OK\nContent-Length: 0\n\n",
		"CR CR LF":                    " OK\r\r\nContent-Length: 0\r\r\n\r\r\n",
		"a bare CR":                   " OK\r\nX-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n",
		"a line without a colon":      " OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
		"a colon alone":               " OK\r\n:\r\nContent-Length: 0\r\n\r\n",
		"no name":                     " OK\r\n: value\r\nContent-Length: 0\r\n\r\n",
		"a blank before the colon":    " OK\r\nContent-Length : 0\r\n\r\n",
		"a blank in the name":         " OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n",
		"a name that is no token":     " OK\r\nX(ä): b\r\nContent-Length: 0\r\n\r\n",
		"a folded line":               " OK\r\nX-A: b\r\n c\r\n\td\r\nContent-Length: 0\r\n\r\n",
		"a folded line first":         " OK\r\n folded\r\nContent-Length: 0\r\n\r\n",
		"control bytes in a value":    " OK\r\nX-A: b\x00\x01\x7f\r\nContent-Length: 0\r\n\r\n",
		"another charset in a value":  " OK\r\nX-A: \xe4\xff\r\nContent-Length: 0\r\n\r\n",
		"40 KiB of cookies": " OK\r\n" + strings.Repeat("Set-Cookie: "+strings.Repeat("c", 4000)+"\r\n", 10) +
			"Content-Length: 0\r\n\r\n",
		"one cookie of 40 KiB": " OK\r\nSet-Cookie: " + strings.Repeat("c", 40<<10) +
			"\r\nContent-Length: 0\r\n\r\n",
		"a header over the limit":   " OK\r\n" + strings.Repeat("X-Many: y\r\n", 40<<10) + "Content-Length: 0\r\n\r\n",
		"a line over the limit":     " OK\r\nX-Big: " + strings.Repeat("y", 400<<10) + "\r\nContent-Length: 0\r\n\r\n",
		"an empty Content-Length":   " OK\r\nContent-Length:\r\n\r\n",
		"a negative Content-Length": " OK\r\nContent-Length: -1\r\n\r\n",
		"a signed Content-Length":   " OK\r\nContent-Length: +1\r\n\r\nx",
		"a hex Content-Length":      " OK\r\nContent-Length: 0x1\r\n\r\nx",
		"a Content-Length in words": " OK\r\nContent-Length: none\r\n\r\n",
		"a huge Content-Length":     " OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
		"the same length twice":     " OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"a list of one length":      " OK\r\nContent-Length: 1, 1\r\n\r\nx",
		"two lengths":               " OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"length and chunks":         " OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"an unknown coding":         " OK\r\nTransfer-Encoding: zstd\r\n\r\nx",
		"an empty coding":           " OK\r\nTransfer-Encoding:\r\n\r\nx",
		"coded twice": " OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"0\r\n\r\n",
		"identity":                   " OK\r\nTransfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
		"gzip that is none":          " OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
		"chunks that are none":       " OK\r\nTransfer-Encoding: chunked\r\n\r\nplain",
		"a chunk without an end":     " OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
		"a chunk of a negative size": " OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nab",
		"a chunk of a huge size":     " OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab",
		"a long chunk extension": " OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("x", 10<<10) +
			"\r\na\r\n0\r\n\r\n",
		"an odd trailer": " OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n",
		"many trailers": " OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" +
			strings.Repeat("X-A: b\r\n", 20<<10) + "\r\n",
		"odd connection options":       " OK\r\nConnection: ,, close,keep-alive,\x01\r\nContent-Length: 0\r\n\r\n",
		"ended after the status line":  "\r\n",
		"ended within the header":      " OK\r\nContent-",
		"ended before the header ends": " OK\r\nContent-Length: 0\r\n",
		"ended within the body":        " OK\r\nContent-Length: 10\r\n\r\nx",
		"ended within a chunk":         " OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
		"ended within the trailers":    " OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A",
		"more than the body":           " OK\r\nContent-Length: 1\r\n\r\nxyz",
	}
	versions := map[string]string{
		"1.1": "HTTP/1.1 ", "1.0": "HTTP/1.0 ", "lower case": "http/1.1 ", "2": "HTTP/2 ", "2.0": "HTTP/2.0 ",
		"1.10":   "HTTP/1.10 ",
		"spaces": "HTTP/1.1   ", "tab": "HTTP/1.1\t", "after empty lines": "\r\n\nHTTP/1.1 ",
		"after interim answers": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nno colon\r\n\r\nHTTP/1.1 ",
	}
	statuses := map[string]struct {
		want   sender.Outcome
		header string
		wait   time.Duration
	}{
		"200": {sender.Success, "", 0}, "204": {sender.Success, "", 0}, "299": {sender.Success, "", 0},
		"304": {sender.Refused, "", 0}, "410": {sender.Gone, "", 0}, "500": {sender.Refused, "", 0},
		"999": {sender.Refused, "", 0},
		"429": {sender.Throttled, "Retry-After: 60\r\n", time.Minute},
		"503": {sender.Throttled, "retry-after:\r\n 60\r\n", time.Minute},
	}
	s := newSender(t, nil)
	check := func(t *testing.T, code, text string, readable bool) {
		t.Helper()
		want := statuses[code]
		a := s.Send(t.Context(), request("http://"+rawReceiver(t, answeringOnce(text))))
		if a.Outcome != want.want || a.Error == "" != (a.Outcome == sender.Success) ||
			readable && a.RetryAfter != want.wait {
			t.Errorf("%s: %+v, want %v", code, a, want.want)
		}
	}
	for name, after := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for code, want := range statuses {
				line, rest, _ := strings.Cut(after, "\n")
				readable := len(rest) > 0 && len(line) < 1000
				if !readable {
					want.header = ""
				}
				if strings.HasPrefix(rest, " ") && want.header != "" {
					want.header += "X-Folded: a\r\n"
				}
				if code == "503" && want.header == "" {
					continue // without Retry-After it is a refusal
				}
				check(t, code, "HTTP/1.1 "+code+line+"\n"+want.header+rest, readable)
			}
		})
	}
	for name, version := range versions {
		t.Run("version "+name, func(t *testing.T) {
			t.Parallel()
			for code, want := range statuses {
				check(t, code, version+code+" OK\r\n"+want.header+"Content-Length: 0\r\n\r\n", true)
			}
		})
	}
}

// The result of a response without success also names what was wrong with the rest of the response.
func TestFlawsOfRefusals(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	for text, want := range map[string]string{
		"HTTP/1.1 500 Oh\r\nX-Big: " + strings.Repeat("y", 70<<10) +
			"\r\n\r\n": "answered 500; its header is larger than 64 KiB",
		"HTTP/1.1 500 Oh\r\nX-A":  "answered 500; the connection ended within its header",
		"HTTP/1.1 302 Found\r\n":  "answered 302: redirects are not followed; the connection ended within its header",
		"HTTP/1.1 500 Oh\r\n\r\n": "answered 500",
	} {
		if a := s.Send(t.Context(), request("http://"+rawReceiver(t, answeringOnce(text)))); a.Error != want {
			t.Errorf("%+v, want %q", a, want)
		}
	}
}
