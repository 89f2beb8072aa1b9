package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const token = "an-admin-token-for-tests"

// TestWhoAnswersMayBeAnybody asks servers that are no relay, or mean harm.
func TestWhoAnswersMayBeAnybody(t *testing.T) {
	t.Parallel()
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the token was carried to another server: %v", r.Header)
	}))
	t.Cleanup(thief.Close)
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		}, "refuses with 307"},
		"a page": {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") },
			"is no relay"},
		"another JSON": {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"status":"ok"}`) },
			"is no relay"},
		"no permission": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
			"refuses the admin token"},
		"an older relay": {http.NotFound, "has no GET /v1/doctor"},
		"a busy relay": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
			"examined already"},
		"an endless answer": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "is no relay"},
		"a cut answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = fmt.Fprint(w, "{")
		}, "did not come to its end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(row.answer)
			t.Cleanup(server.Close)
			_, err := Ask(t.Context(), server.URL, token)
			var why *AskError
			if !errors.As(err, &why) || !strings.Contains(why.Finding, row.want) || why.Remedy == "" || !why.Running {
				t.Errorf("%+v", err)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Error("the error has the token")
			}
		})
	}
}

// TestAHangingServerIsLeft asks one that takes the request and never responds.
func TestAHangingServerIsLeft(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // it never accepts
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var why *AskError
	if _, err = Ask(ctx, "http://"+listener.Addr().String(), token); !errors.As(err, &why) || !why.Running ||
		!strings.Contains(why.Finding, "does not answer within") {
		t.Errorf("%+v", err)
	}
	_ = listener.Close()
	if _, err = Ask(t.Context(), "http://"+listener.Addr().String(), token); !errors.As(err, &why) || why.Running {
		t.Errorf("nobody listens: %+v", err)
	}
}

// TestNothingOfAStrangerReachesATerminal reads a report that would steer one.
func TestNothingOfAStrangerReachesATerminal(t *testing.T) {
	t.Parallel()
	hostile := Report{Version: "\x1b[2J", Replica: strings.Repeat("x", 10_000), Checks: []Check{
		{Area: Area("\x1b]0;" + "title\x07"), Subject: "\r\nok  all: fine", State: "\x1b[31m",
			Finding: "a\x1b[31mb\u202e", Remedy: "rm\x00"},
	}}
	raw, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) }))
	t.Cleanup(server.Close)
	r, err := Ask(t.Context(), server.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\x00\x07\r\u202e") || len(out.String()) > 3000 ||
		strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%q", out.String())
	}
	if r.Finish(); !r.Sick(false) || !r.Sick(true) { // nor is one lost of whose area only a newer relay knows
		t.Error("a state that nobody knows counts as well")
	}
}

// TestAReportIsBounded adds more checks of an area than are shown.
func TestAReportIsBounded(t *testing.T) {
	t.Parallel()
	var r Report
	for i := range 3 * most {
		r.Add(Wrong(Callbacks, fmt.Sprint(i), "it fails", "tell its operator"),
			Fine(Connections, fmt.Sprint(i), "it is well"))
	}
	r.Add(Wrong(Storage, "", "full", "make room"))
	r.Finish()
	if len(r.Checks) != 2*(most+1)+1 || r.Checks[0].Area != Storage {
		t.Errorf("%d checks, the first %+v", len(r.Checks), r.Checks[0])
	}
	if !r.Sick(true) {
		t.Error("storage is the operator's")
	}
	var others Report
	others.Add(Wrong(Callbacks, "a", "it fails", "tell its operator"))
	if others.Sick(true) || !others.Sick(false) {
		t.Error("a callback is the receiver's")
	}
}

// TestWhatWasNotLookedAtIsNotSaidToBeWell writes reports without trouble.
func TestWhatWasNotLookedAtIsNotSaidToBeWell(t *testing.T) {
	t.Parallel()
	for want, check := range map[string]Check{
		"\nnothing is wrong\n": Fine(Storage, "", "it takes writes"),
		"\nnothing wrong was found; 1 thing could not be looked at\n": Unknown(Storage, "", "there was no time"),
	} {
		var out strings.Builder
		if err := (Report{Checks: []Check{check}}).Write(&out); err != nil || !strings.HasSuffix(out.String(), want) {
			t.Errorf("%v, %q", err, out.String())
		}
	}
}
