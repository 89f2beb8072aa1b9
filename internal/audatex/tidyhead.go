package audatex

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxHead bounds how much of a response's header is read, maxHeadLine the length of a line that
	// is passed on, and maxHeadKept the total of these lines.
	maxHead     = 1 << 20
	maxHeadLine = 8 << 10
	maxHeadKept = 32 << 10
	// maxHeads bounds how many interim responses (1xx) may come before the response.
	maxHeads = 16

	// onceBuffer is the size of the buffers of a connection for one request. Most responses are an empty page.
	onceBuffer = 1 << 10

	handshakeTimeout = 10 * time.Second
)

// normalizedConn is a connection for one request that normalises the response's header before net/http
// parses it. Because of a line without a colon, an empty Content-Length or a header of 64 KiB,
// net/http would reject the whole response, and with it what exists nowhere else: a rotated refresh
// token, or a page of notifications.
type normalizedConn struct {
	net.Conn
	src     *bufio.Reader
	head    []byte // what was read of it and not yet passed on
	started bool
}

// normalizing returns a dialer whose connections are such.
func normalizing(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &normalizedConn{Conn: conn, src: bufio.NewReaderSize(conn, onceBuffer)}, nil
	}
}

// normalizingTLS is normalizing for https: the header can only be seen above TLS.
func normalizingTLS(dial dialFunc, config *tls.Config) dialFunc {
	return normalizing(func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := config.Clone()
		config.ServerName, config.NextProtos = host, []string{"http/1.1"}
		secured := tls.Client(conn, config)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, newHandshakeError(err)
		}
		return secured, nil
	})
}

// Read returns the normalised header, and then what follows it.
func (t *normalizedConn) Read(p []byte) (int, error) {
	if !t.started {
		t.started = true
		t.readHeads()
	}
	if len(t.head) > 0 {
		n := copy(p, t.head)
		t.head = t.head[n:]
		return n, nil
	}
	return t.src.Read(p)
}

// readHeads reads the header of the response, and those of interim responses before it. What is not
// HTTP, such as data of a SOCKS proxy, is not changed.
func (t *normalizedConn) readHeads() {
	for range maxHeads {
		for range 8 { // empty lines before a response
			if next, err := t.src.Peek(1); err == nil && (next[0] == '\r' || next[0] == '\n') {
				_, _ = t.src.Discard(1)
			}
		}
		if next, err := t.src.Peek(1); err != nil || next[0]|0x20 != 'h' {
			return
		}
		lines, whole := t.readLines()
		head, status := tidyHead(lines)
		if !whole || head == nil {
			t.head = append(t.head, bytes.Join(lines, nil)...)
			return
		}
		t.head = append(t.head, head...)
		if status >= 200 || status == 101 {
			return
		}
	}
}

// readLines reads up to the empty line that ends a header, or as much as there is. The lines keep
// their line ends.
func (t *normalizedConn) readLines() (lines [][]byte, whole bool) {
	for size := 0; size < maxHead; {
		line, err := t.readLine()
		size += len(line)
		lines = append(lines, line)
		if err != nil {
			return lines, false
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return lines, true
		}
	}
	return lines, false
}

func (t *normalizedConn) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := t.src.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull || len(line) > maxHead { //nolint:errorlint // bufio does not wrap it
			return line, err
		}
	}
}

// tidyHead returns a header with the same meaning as the lines, as far as it matters and can be
// parsed, or nil if the first line is not a status line.
func tidyHead(lines [][]byte) (head []byte, status int) {
	if status = statusOf(lines[0]); status == 0 {
		return nil, 0
	}
	head = append(head, "HTTP/1.1 "...)
	head = append(head, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10), '\r', '\n')
	var lengths, codings, encodings []string
	for _, line := range lines[1:] {
		name, value, found := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
		name = strings.TrimRight(name, " \t")
		value = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, value))
		if !found || name == "" || strings.ContainsFunc(name, notInName) {
			continue
		}
		switch strings.ToLower(name) {
		case "content-length":
			lengths = append(lengths, listed(value)...)
		case "transfer-encoding":
			codings = append(codings, listed(strings.ToLower(value))...)
		case "content-encoding":
			encodings = append(encodings, listed(value)...)
		case "set-cookie", "connection":
		default:
			if len(line) <= maxHeadLine && len(head)+len(line) <= maxHeadKept {
				head = append(head, name+": "+value+"\r\n"...)
			}
		}
	}
	chunked := slices.Contains(codings, "chunked")
	for _, coding := range codings { // an encoding for the transfer is on top of all others
		if coding != "chunked" && coding != identity {
			encodings = append(encodings, coding)
		}
	}
	if len(encodings) > 0 {
		kept := encodings[:min(len(encodings), maxEncodings+1)]
		head = append(head, "Content-Encoding: "+strings.Join(kept, ", ")+"\r\n"...)
	}
	switch {
	case chunked:
		head = append(head, "Transfer-Encoding: chunked\r\n"...)
	case len(codings) == 0 && isLength(lengths):
		head = append(head, "Content-Length: "+lengths[0]+"\r\n"...)
	}
	return append(head, "Connection: close\r\n\r\n"...), status
}

var statusLine = regexp.MustCompile(`^(?i:http/)\S*\s+([1-9][0-9]{2})(?:\s|$)`)

// statusOf parses a status line. It returns 0 if it is none.
func statusOf(line []byte) int {
	found := statusLine.FindSubmatch(line[:min(len(line), 64)])
	if found == nil {
		return 0
	}
	status, _ := strconv.Atoi(string(found[1])) // three digits
	return status
}

// isLength reports whether all lengths are the same number. Otherwise the body ends with the
// connection.
func isLength(lengths []string) bool {
	if len(lengths) == 0 || len(lengths[0]) > 18 || strings.Trim(lengths[0], "0123456789") != "" {
		return false
	}
	return !slices.ContainsFunc(lengths, func(other string) bool { return other != lengths[0] })
}

// listed splits a header's list.
func listed(value string) []string {
	var list []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// notInName reports whether a character cannot be part of a header's name (RFC 9110, section
// 5.6.2).
func notInName(r rune) bool {
	return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
