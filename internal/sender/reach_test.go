package sender

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
)

// TestAProxyIsNotTheReceiver reaches a proxy that does not know the receiver yet.
func TestAProxyIsNotTheReceiver(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request was sent")
	}))
	t.Cleanup(server.Close)
	proxy, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Proxy: proxy})
	t.Cleanup(s.Close)
	if r := s.Reach(t.Context(), "http://127.0.0.1:1"); r.Outcome != Cancelled || r.Reason == "" {
		t.Errorf("nobody listens: %+v", r)
	}
}
