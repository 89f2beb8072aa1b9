package sender

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// read is what a response, as it comes over a connection, is taken for.
type read struct {
	status   int
	reason   string
	reusable bool
	excerpt  string
}

func readAnswer(t *testing.T, src io.Reader) (got read) {
	x := new(exchange)
	r := newReader(src)
	defer r.free()
	err := r.readStatus(&x.answer)
	if err != nil {
		var foreign *notHTTP
		switch {
		case errors.As(err, &foreign):
			got.reason = foreign.reason
		case errors.Is(err, io.EOF):
			got.reason = "hung up"
		default:
			t.Fatalf("an error that is neither the connection's nor about the answer: %v", err)
		}
	} else {
		whole := x.readRest(r)
		more, _ := src.Read(make([]byte, 1)) // as conn.look would find it
		got.status, got.reusable = x.answer.status, whole && r.buffered() == 0 && more == 0 && !x.answer.announced() &&
			x.answer.keepAlive()
		if got.status < 200 || got.status > 299 {
			got.excerpt = excerpt(x.excerpt, x.cut, x.answer.compressed, func() needles {
				return needles{{"secret", window}}
			})
		}
	}
	if r.total > maxHead+maxBody {
		t.Fatalf("%d bytes were read", r.total)
	}
	return got
}

// FuzzAnswer reads responses of receivers and compares with net/http. Both must accept the same
// responses, with the same status. A connection may only be used again if net/http too finds that the
// response has ended and nothing is left.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: Mon, 06 May 2024 07:09:09 GMT\r\n\r\nok",
		"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\nContent-Type: text/html\r\n\r\n4;a=b\r\nsecr\r\n2\r\net\r\n" +
			"0\r\nX: y\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nRetry-After:\r\n 60\r\nConnection: close\r\n\r\nwait",
		"HTTP/1.0 503 Busy\r\nRetry-After: 1\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200\nno colon\nContent-Length: 1, 1\n\nx", "\r\nhttp/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"\x15\x03\x01\x00\x02\x02\x46", "\x00\x00\x06\x04\x00\x00\x00\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"ICY 200 OK\r\n\r\n",
		"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 5000) + "\r\nContent-Length: 0\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got := readAnswer(t, bytes.NewReader(answer))
		if len(answer) < 8<<10 {
			if slow := readAnswer(t, iotest.OneByteReader(bytes.NewReader(answer))); slow != got {
				t.Fatalf("%+v at once, %+v byte by byte", got, slow)
			}
		}
		if (got.status == 0) == (got.reason == "") || got.status != 0 && (got.status < 101 || got.status > 999) {
			t.Fatalf("%+v", got)
		}
		if len(got.excerpt) > maxExcerpt || !utf8.ValidString(got.excerpt) ||
			strings.Contains(squeeze(got.excerpt), "secret") && got.excerpt != withheldSecret {
			t.Fatalf("excerpt %q", got.excerpt)
		}

		buffered := bufio.NewReader(bytes.NewReader(answer))
		theirs, body := netHTTP(buffered)
		if theirs != nil && theirs.StatusCode != got.status {
			t.Fatalf("%+v, but net/http reads status %d", got, theirs.StatusCode)
		}
		if got.reusable && (theirs == nil || body != nil || theirs.Close || buffered.Buffered() > 0) {
			t.Fatalf("the connection would be used again: %.200v, %d bytes left", body, buffered.Buffered())
		}
	})
}

// netHTTP reads a response with net/http, passing over interim ones.
func netHTTP(r *bufio.Reader) (*http.Response, error) {
	for range maxInterim + 1 {
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodPost})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 100 {
			return nil, io.EOF
		}
		if resp.StatusCode >= 200 || resp.StatusCode == 101 {
			_, err := io.Copy(io.Discard, resp.Body)
			return resp, err
		}
	}
	return nil, io.EOF
}
