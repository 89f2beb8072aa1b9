package sender_test

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

// A test shows the request as it was sent without its secrets, and what the receiver presented.
func TestInspection(t *testing.T) {
	t.Parallel()
	var connections atomic.Value
	bms := tlsReceiver(t, nil, func(_ http.ResponseWriter, r *http.Request) { connections.Store(r.RemoteAddr) })
	s := trusting(t, bms)
	r := request(bms.URL + "/hooks/token-0123456789?key=query-0123456789")
	r.Auth = sender.Basic("user-name", "pass-word")
	r.Headers = map[string]string{"x-api-key": "header-0123456789"}
	r.Secrets = []signature.Secret{testSecret, signature.NewSecret()}
	if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
		t.Fatalf("%+v", a)
	}
	kept := connections.Load()
	var seen sender.Inspection
	r.Inspect = &seen
	if a := s.Send(t.Context(), r); a.Outcome != sender.Success || connections.Load() == kept {
		t.Errorf("%+v over %v after %v", a, connections.Load(), kept)
	}
	host := strings.TrimPrefix(bms.URL, "https://")
	if seen.Method != "POST" || seen.URL != "https://"+host+"/hooks/[redacted]?[redacted]" {
		t.Errorf("%s %s", seen.Method, seen.URL)
	}
	sent := map[string]string{}
	for _, h := range seen.Headers {
		sent[h.Name] = h.Value
	}
	for name, want := range map[string]string{
		"Host": host, "User-Agent": "audatex-relay/test", "Content-Type": "application/json", "Content-Length": "14",
		"Webhook-Id": "evt_1", "Webhook-Signature": "v1,[redacted] v1,[redacted]", "Authorization": "Basic [redacted]",
		"X-Api-Key": "[redacted]",
	} {
		if sent[name] != want {
			t.Errorf("%s was shown as %q, want %q", name, sent[name], want)
		}
	}
	if len(sent) != 9 || sent["Webhook-Timestamp"] == "" {
		t.Errorf("%d headers: %v", len(sent), sent)
	}

	// The certificates, also those that are refused; then nothing was sent.
	check := func() {
		t.Helper()
		if len(seen.Certificates) != 1 {
			t.Fatalf("%d certificates", len(seen.Certificates))
		}
		c := seen.Certificates[0]
		if c.Issuer != "O=Acme Co" || !c.NotAfter.After(time.Now()) ||
			fmt.Sprint(c.Names) != "[example.com *.example.com 127.0.0.1 ::1]" {
			t.Errorf("%+v", c)
		}
	}
	check()
	s.Trust(x509.NewCertPool())
	seen = sender.Inspection{}
	if a := s.Send(t.Context(), r); a.Outcome != sender.TLSFailed || seen.Method != "" {
		t.Errorf("%+v, %+v", a, seen)
	}
	check()
}
