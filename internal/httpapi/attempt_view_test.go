package httpapi

import (
	"net/netip"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// The header of a request is shown if there was a request.
func TestRequestHeadersOfWhatWasSent(t *testing.T) {
	t.Parallel()
	a, cb := &API{}, relay.Callback{ShownURL: "https://bms.example/"}
	sent := relay.AttemptRecord{Event: "e", Number: 1, Outcome: "timeout",
		Remote: netip.MustParseAddrPort("203.0.113.7:443")}
	if view := a.attempt(cb, sent); view.RequestHeaders["webhook-id"] != "e" || view.RemoteAddress == "" {
		t.Errorf("sent: %+v", view)
	}
	for _, outcome := range []string{"token_failed", "address_refused", "connect_failed", "tls_failed", "timeout"} {
		if view := a.attempt(cb,
			relay.AttemptRecord{Event: "e", Number: 1, Outcome: outcome}); view.RequestHeaders != nil {
			t.Errorf("%s: %v", outcome, view.RequestHeaders)
		}
	}
}
