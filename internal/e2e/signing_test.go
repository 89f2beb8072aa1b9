package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// gateway is a receiver behind TLS with a certificate of its own, which wants an access token, and
// the server that gives one. It notes which secrets each delivery was signed with, as the public
// library judges it.
type gateway struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	secrets map[string]string // by name
	tokens  int
	signed  map[string]string // by the order's reference: names of secrets
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t, secrets: map[string]string{}, signed: map[string]string{}}
	g.Server = httptest.NewTLSServer(g)
	t.Cleanup(g.Close)
	return g
}

// ServeHTTP serves both.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.URL.Path == "/token" {
		if id, secret, _ := r.BasicAuth(); id != "relay" || secret != "client-secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		g.tokens++
		_, _ = fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, g.tokens)
		return
	}
	if r.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d", g.tokens) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	var event struct {
		Data struct {
			Order struct{ OrderReference string }
		}
	}
	if err := json.Unmarshal(body, &event); err != nil {
		g.t.Error(err)
	}
	var by []string
	for name, secret := range g.secrets {
		judge, err := reference.NewWebhook(secret)
		if err != nil {
			g.t.Error(err)
			continue
		}
		if judge.Verify(body, r.Header) == nil {
			by = append(by, name)
		}
	}
	if slices.Sort(by); len(by) != len(strings.Fields(r.Header.Get("Webhook-Signature"))) {
		g.t.Errorf("a delivery has a signature of none of the secrets: %s", r.Header.Get("Webhook-Signature"))
	}
	g.signed[event.Data.Order.OrderReference] = strings.Join(by, " ")
}

// revoke makes the present token invalid.
func (g *gateway) revoke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens++
}

func (g *gateway) know(name, secret string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.secrets[name] = secret
}

// TestSigningSecretsOverCrashAndHandOver rotates a callback's secret twice. All three sign, also
// after the relay was killed and after the callback has moved to another replica, until one is
// ended. The receiver has a certificate that only RELAY_CALLBACK_CA_FILE vouches for, and wants an
// access token.
func TestSigningSecretsOverCrashAndHandOver(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	w := newWorld(t, 1, sandbox.Config{Seed: 7}, nil)
	nats := natstest.StartLimited(t, 8<<20)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw}),
		0o600); err != nil {
		t.Fatal(err)
	}
	delete(w.env, "RELAY_NATS_LISTEN")
	maps.Copy(w.env, map[string]string{
		"RELAY_NATS_URL": nats.URL(), "RELAY_STREAM_REPLICAS": "1", "RELAY_ENCRYPTION_KEYS": string(keys),
		"RELAY_CALLBACK_CA_FILE": ca,
	})
	w.start()
	w.connect()
	var made struct{ Secret string }
	w.api().Must(t, http.MethodPut, "/v1/callbacks/bms", map[string]any{
		"url": g.URL + "/hook", "auth": map[string]any{
			"type": "oauth2", "tokenUrl": g.URL + "/token", "clientId": "relay", "clientSecret": "client-secret",
		},
	}, &made)
	g.know("made", made.Secret)
	orders := 0
	signedBy := func(when, want string) {
		t.Helper()
		orders++
		reference := fmt.Sprintf("PO-%d", orders)
		if _, err := w.sandbox.CreateOrder(vendorSite(w.sites[0]),
			sandbox.OrderOptions{Reference: reference}); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, when+" an order is delivered", func() string {
			g.mu.Lock()
			defer g.mu.Unlock()
			switch by, delivered := g.signed[reference]; {
			case !delivered:
				return "it is not"
			case by != want:
				t.Errorf("%s deliveries are signed with %q, want %q", when, by, want)
			}
			return ""
		})
	}
	type rotated struct {
		Secret  string
		Secrets []struct{ Fingerprint string }
	}
	rotate := func(name string) (r rotated) {
		t.Helper()
		w.api().Must(t, http.MethodPost, "/v1/callbacks/bms/rotate-secret", map[string]any{"overlap": "1h"}, &r)
		g.know(name, r.Secret)
		return r
	}
	rotate("first")
	last := rotate("second")
	signedBy("after two rotations", "first made second")

	var test struct {
		Outcome      string
		TokenMillis  float64
		Phases       struct{ ConnectMillis, TLSMillis, FirstByteMillis float64 }
		Certificates []struct{ Issuer string }
		Request      struct{ Headers map[string]string }
		Event        struct{ Test bool }
	}
	w.api().Must(t, http.MethodPost, "/v1/callbacks/bms/test", map[string]any{}, &test)
	if test.Outcome != "success" || test.Phases.ConnectMillis == 0 || test.Phases.TLSMillis == 0 ||
		test.Phases.FirstByteMillis == 0 ||
		len(test.Certificates) != 1 || test.Certificates[0].Issuer != "O=Acme Co" || !test.Event.Test ||
		test.Request.Headers["authorization"] != "Bearer [redacted]" ||
		test.Request.Headers["webhook-signature"] != "v1,[redacted] v1,[redacted] v1,[redacted]" {
		t.Errorf("a test shows %+v", test)
	}

	w.end(syscall.SIGKILL)
	first := w.start()
	signedBy("after a kill", "first made second")

	w.start()
	if err := first.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := first.ExitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	signedBy("after a hand-over", "first made second")

	w.api().Must(t, http.MethodDelete, "/v1/callbacks/bms/secrets/"+last.Secrets[2].Fingerprint, nil, nil)
	g.revoke()
	signedBy("after one was ended", "first second")
}
