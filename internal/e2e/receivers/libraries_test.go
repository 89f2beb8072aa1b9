package receivers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

// library is the variable that names the directory of the JavaScript library.
const library = "RELAY_STANDARDWEBHOOKS"

// needJavaScript skips the test without Node and the library.
func needJavaScript(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		lacking(t, "JavaScript", "node", "apt-get install --no-install-recommends nodejs", nil)
	}
	if os.Getenv(library) == "" {
		lacking(t, "JavaScript", library+", the directory of the library", "npm ci --prefix tools/receivers", nil)
	}
}

// judged is what the libraries made of the attempts, a line each: the event, the attempt, and for each secret "ok" or
// why not. The first attempt of each event gets a 503, so it is made twice.
type judged struct {
	url   string
	lines func() []string
}

// byGo is a receiver with the Go library.
func byGo(t *testing.T, secrets ...string) judged {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	attempts := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		event := r.Header.Get(standardwebhooks.HeaderWebhookID)
		mu.Lock()
		defer mu.Unlock()
		attempts[event]++
		line := []string{event, fmt.Sprint(attempts[event])}
		for _, secret := range secrets {
			line = append(line, verifyByGo(secret, body, r.Header))
		}
		lines = append(lines, strings.Join(line, "; "))
		status := http.StatusNoContent
		if attempts[event] == 1 {
			status = http.StatusServiceUnavailable
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return judged{url: server.URL, lines: func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lines)
	}}
}

func verifyByGo(secret string, body []byte, header http.Header) string {
	hook, err := standardwebhooks.NewWebhook(secret)
	if err == nil {
		err = hook.Verify(body, header)
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// byJavaScript is a receiver with the JavaScript library.
func byJavaScript(t *testing.T, secrets ...string) judged {
	t.Helper()
	needJavaScript(t)
	book := &harness.Logbook{}
	env := []string{"PATH=" + os.Getenv("PATH"), library + "=" + os.Getenv(library)}
	p := harness.StartProcess(t, "node",
		append([]string{filepath.Join("testdata", "library.mjs")}, secrets...), env, book)
	j := judged{lines: func() []string { return strings.Split(strings.TrimSuffix(book.Printed(), "\n"), "\n") }}
	harness.Eventually(t, "the JavaScript library's receiver listens", func() string {
		select {
		case <-p.Exited:
			t.Fatalf("it ended: %v\n%s", p.Err, book.Text())
		default:
		}
		if j.url = listens.FindString(string(book.Text())); j.url == "" {
			return "it does not say so"
		}
		return ""
	})
	return j
}

// TestThePublicLibrariesAcceptDeliveries: with one secret, with two during a rotation, and with the new one alone. Each
// attempt is accepted, the second one too.
func TestThePublicLibrariesAcceptDeliveries(t *testing.T) {
	t.Parallel()
	const older, newer = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwIA==",
		"whsec_dGhlIHNlY3JldCBhZnRlciBpdHMgcm90YXRpb24gLi4u"
	w := newWorld(t)
	for i, l := range []struct {
		name string
		with func(*testing.T, ...string) judged
	}{{"go", byGo}, {"javascript", byJavaScript}} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			j := l.with(t, older, newer)
			callback := "/v1/callbacks/library-" + l.name
			w.api.Must(t, http.MethodPut, callback,
				map[string]any{"url": j.url, "secret": older, "sites": []string{languages[i].name}}, nil)
			// JavaScript's begins with a capital letter, Go's has words before it
			const refused = "o matching signature found"
			order, err := w.sandbox.CreateOrder(vendorSite(i), sandbox.OrderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			j.attempts(t, 1, "ok", refused)
			w.api.Must(t, http.MethodPost, callback+"/rotate-secret",
				map[string]any{"secret": newer, "overlap": "1h"}, nil)
			w.advance(t, order.ID)
			j.attempts(t, 2, "ok", "ok")
			w.endOlder(t, callback)
			w.advance(t, order.ID)
			j.attempts(t, 3, refused, "ok")
		})
	}
}

func (w *world) advance(t *testing.T, order string) {
	t.Helper()
	if _, err := w.sandbox.AdvanceOrder(order); err != nil {
		t.Fatal(err)
	}
}

// endOlder ends all secrets of a callback but the present one.
func (w *world) endOlder(t *testing.T, callback string) {
	t.Helper()
	var cb struct {
		Secrets []struct{ Fingerprint string }
	}
	w.api.Must(t, http.MethodGet, callback, nil, &cb)
	if len(cb.Secrets) != 2 {
		t.Fatalf("%s has %d secrets that sign, want 2", callback, len(cb.Secrets))
	}
	w.api.Must(t, http.MethodDelete, callback+"/secrets/"+cb.Secrets[1].Fingerprint, nil, nil)
}

// attempts waits for both attempts of the n-th event and compares how each secret did.
func (j judged) attempts(t *testing.T, n int, want ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("event %d is sent twice", n), func() string {
		if lines := j.lines(); len(lines) < 2*n {
			return fmt.Sprintf("%q", lines)
		}
		return ""
	})
	lines := j.lines()
	if len(lines) != 2*n {
		t.Fatalf("%d attempts of %d events: %q", len(lines), n, lines)
	}
	for _, line := range lines[2*n-2:] {
		for i, got := range strings.Split(line, "; ")[2:] {
			if got != want[i] && (want[i] == "ok" || !strings.HasSuffix(got, want[i])) {
				t.Errorf("event %d: the secret %d gives %q, want %q", n, i+1, got, want[i])
			}
		}
	}
}

// attempt is one that was recorded.
type attempt struct {
	At      int64             `json:"at"` // by the clock of whoever receives it
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
}

// TestTheLibrariesAcceptARetryTenMinutesLater: each attempt is signed again, at its own time. The attempts are the
// sender's; only its clock is virtual.
func TestTheLibrariesAcceptARetryTenMinutesLater(t *testing.T) {
	t.Parallel()
	received := make(chan *attempt, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		a := &attempt{Headers: map[string]string{}, Body: body}
		for name := range r.Header {
			a.Headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		received <- a
		w.Header().Set("Connection", "close") // no connection stays open while time is virtual
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	secret := signature.NewSecret()
	var attempts []*attempt
	synctest.Test(t, func(t *testing.T) {
		s := sender.New(sender.Config{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		defer s.Close()
		for range 2 {
			result := s.Send(t.Context(), sender.Request{
				Callback: "libraries", URL: server.URL, EventID: "leeds-1", Body: []byte(`{"id":"leeds-1"}`),
				Secrets: []signature.Secret{secret},
			})
			if result.Status != http.StatusServiceUnavailable {
				t.Fatalf("the attempt: %+v", result)
			}
			a := <-received
			a.At, a.Secret = time.Now().Unix(), secret.Reveal()
			if got := verifyByGo(a.Secret, a.Body, header(a)); got != "ok" {
				t.Errorf("the Go library: %s", got)
			}
			attempts = append(attempts, a)
			<-time.After(10 * time.Minute) // virtual
		}
		if got := verifyByGo(secret.Reveal(), attempts[0].Body,
			header(attempts[0])); !strings.Contains(got, "too old") {
			t.Errorf("the first attempt's signature, much later: %s", got)
		}
	})
	late := *attempts[0]
	late.At = attempts[1].At
	if got := verifyByJavaScript(t, attempts[0], attempts[1], &late); got != "ok\nok\nMessage timestamp too old\n" {
		t.Errorf("the JavaScript library: %s", got)
	}
}

func header(a *attempt) http.Header {
	h := http.Header{}
	for name, value := range a.Headers {
		h.Set(name, value)
	}
	return h
}

// verifyByJavaScript returns what the JavaScript library makes of attempts, by the clock that each names.
func verifyByJavaScript(t *testing.T, attempts ...*attempt) string {
	t.Helper()
	needJavaScript(t)
	var input bytes.Buffer
	for _, a := range attempts {
		if err := json.NewEncoder(&input).Encode(a); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join("testdata", "library.mjs"))
	cmd.Stdin, cmd.Stderr = &input, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	return string(out)
}
