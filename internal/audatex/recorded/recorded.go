// Package recorded has responses of the vendor as bytes, for tests: what is documented, what was
// seen, and what servers and gateways of its kind send when something is wrong. They are files in
// testdata, each with its status line, header, an empty line and the body; large ones are
// generated. Begin with Answers.
package recorded

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// The ids in the recorded responses.
const (
	Order         = "5f0c2a34-9d1e-4c6b-8a7f-0123456789ab"
	CorrelationID = "0d9c61f8-4f86-4b6e-9f4e-6b0f0c7c1a11"
)

//go:embed testdata/*.http
var files embed.FS

// Answer is one response of the vendor.
type Answer struct {
	Name   string
	Status int
	Header http.Header
	Body   []byte
}

// Answers returns all recorded responses by their names.
func Answers() (map[string]Answer, error) {
	names, err := fs.Glob(files, "testdata/*.http")
	if err != nil {
		return nil, fmt.Errorf("listing recorded answers: %w", err)
	}
	all := map[string]Answer{
		"poll-20-megabytes":          made("poll-20-megabytes", 20<<20/9000, 9000),
		"poll-hundred-of-9-kilobyte": made("poll-hundred-of-9-kilobyte", 100, 9000),
	}
	for _, name := range names {
		raw, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		short := strings.TrimSuffix(strings.TrimPrefix(name, "testdata/"), ".http")
		a, err := parse(short, raw)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		all[short] = a
	}
	return all, nil
}

func parse(name string, raw []byte) (Answer, error) {
	head, body, found := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	fields := strings.Fields(lines[0])
	if !found || len(fields) < 2 {
		return Answer{}, fmt.Errorf("%q is no status line", lines[0])
	}
	status, err := strconv.Atoi(fields[1])
	if err != nil {
		return Answer{}, fmt.Errorf("%q is no status line", lines[0])
	}
	a := Answer{Name: name, Status: status, Header: http.Header{}, Body: body}
	for _, line := range lines[1:] {
		field, value, found := strings.Cut(line, ":")
		if !found {
			return Answer{}, fmt.Errorf("%q is no header", line)
		}
		a.Header.Add(textproto.TrimString(field), textproto.TrimString(value))
	}
	return a, nil
}

// made returns a page of count notifications, each about its own order and of the given size.
func made(name string, count, size int) Answer {
	var page bytes.Buffer
	page.WriteByte('[')
	for n := range count {
		if n > 0 {
			page.WriteByte(',')
		}
		start := fmt.Sprintf(`{"NotificationId":"00000000-0000-4000-8000-%012x","Topic":"PARTS.ORDER.UPDATED",`+
			`"SiteId":"4711",`+
			`"CreatedAt":"2026-01-15T09:38:44.6871504Z","Resources":[{"ResourceType":"PartsOrder","ResourceId":"%s"}],`+
			`"Message":"`, n, MadeOrder(n))
		page.WriteString(start)
		page.WriteString(strings.Repeat("x", size-len(start)-len(`"}`)))
		page.WriteString(`"}`)
	}
	page.WriteByte(']')
	return Answer{
		Name: name, Status: http.StatusOK, Body: page.Bytes(),
		Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}, "Correlation-Id": {CorrelationID}},
	}
}

// MadeOrder returns the order of the n-th notification of a generated page.
func MadeOrder(n int) string { return fmt.Sprintf("11111111-0000-4000-8000-%012x", n) }

// ServeHTTP sends the response. If its Content-Length is larger than the body, the connection is
// cut.
func (a Answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for name, values := range a.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	if a.Header.Get("Content-Type") == "" {
		w.Header()["Content-Type"] = nil // none is guessed
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the caller may be gone
	if promised, err := strconv.Atoi(a.Header.Get("Content-Length")); err == nil && promised > len(a.Body) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}
