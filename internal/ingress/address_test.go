package ingress

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTheRightmostUntrustedAddressCounts(t *testing.T) {
	t.Parallel()
	trusted := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:f::/48"),
		netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.7"}, "192.0.2.1"}, // a stranger's word
		{"10.0.0.1:5", nil, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7"}, "198.51.100.7"},
		{"[::ffff:10.0.0.1]:5", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"203.0.113.9,198.51.100.7 , 10.0.0.2"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"203.0.113.9", "198.51.100.7"}, "198.51.100.7"}, // several lines are one list
		{"10.0.0.1:5", []string{"198.51.100.7", "10.0.0.2"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"}, // all are ours
		{"10.0.0.1:5", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"10.0.0.1:5", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"10.0.0.1:5", []string{"2001:db8::1"}, "2001:db8::1"},
		{"10.0.0.1:5", []string{"fe80::1%eth0"}, "fe80::1"},
		{"[2001:db8:f::1]:5", []string{"198.51.100.7"}, "198.51.100.7"},
		// What is no address ends the search: the last proxy that we know counts.
		{"10.0.0.1:5", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:5", []string{""}, "10.0.0.1"},
		{"10.0.0.1:5", []string{","}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7,"}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.300"}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"_hidden, for=198.51.100.7"}, "10.0.0.1"},
		{"10.0.0.1:5", []string{"198.51.100.7\x00"}, "10.0.0.1"},
		// bounded
		{"10.0.0.1:5", []string{"198.51.100.7, " + strings.Repeat("10.0.0.2,", 5000) + "10.0.0.2"}, "10.0.0.2"},
		{"@", []string{"198.51.100.7"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.xff}}
		if got := trusted.ClientAddr(r).String(); got != c.want {
			t.Errorf("%s, %.80q: %s, want %s", c.peer, c.xff, got, c.want)
		}
	}
}

func FuzzClientAddr(f *testing.F) {
	f.Add("10.0.0.1:5", "198.51.100.7, 10.0.0.2")
	f.Add("[::1]:5", "[2001:db8::1]:80,,")
	trusted := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	f.Fuzz(func(t *testing.T, peer, xff string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {xff}}}
		got, own := trusted.ClientAddr(r), parseHop(peer)
		if !trusted.Contains(own) && got != own {
			t.Errorf("%q is believed to speak for %s", peer, got)
		}
		if got.IsValid() && got.Zone() != "" {
			t.Errorf("a zone is left in %s", got)
		}
	})
}

func TestNetworksAreWhatOneOwnerHas(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"192.0.2.1", "::ffff:192.0.2.1", "same"}, {"192.0.2.1", "192.0.2.2", ""},
		{"2001:db8::1", "2001:db8::ffff:1", "same"},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", ""}, {"fe80::1%a", "fe80::1%b", "same"},
	} {
		a, b := Network(netip.MustParseAddr(c[0])), Network(netip.MustParseAddr(c[1]))
		if (a == b) != (c[2] == "same") {
			t.Errorf("%s and %s: %s and %s", c[0], c[1], a, b)
		}
	}
}

func TestGuessesAreSlowedPerNetworkAndSampled(t *testing.T) {
	t.Parallel()
	g, now := NewGuesses(0), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	here, near, there := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"),
		netip.MustParseAddr("192.0.2.1")
	lines := 0
	for i := range 10_000 {
		f := g.Failed([]netip.Addr{here, near}[i%2], now)
		if f.Slowed != (i >= DefaultFailures) {
			t.Fatalf("failure %d: %+v", i, f)
		}
		if f.Slowed && (f.RetryAfter <= 0 || f.RetryAfter > guessEvery) {
			t.Fatalf("wait %s", f.RetryAfter)
		}
		if f.Log {
			lines++
		}
	}
	if lines != 1 {
		t.Errorf("%d lines about one network within a moment", lines)
	}
	if f := g.Failed(there, now); f.Slowed || !f.Log || f.Others != 9_999 {
		t.Errorf("another network: %+v", f)
	}
	now = now.Add(guessLineEvery)
	if f := g.Failed(here, now); f.Slowed || !f.Log || f.More != 9_999 {
		t.Errorf("a minute later: %+v", f)
	}
}

func TestGuessesRememberABoundedNumberOfNetworks(t *testing.T) {
	t.Parallel()
	g, now := NewGuesses(0), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lines := 0
	for i := range 5 * maxNetworks {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if g.Failed(addr, now).Log {
			lines++
		}
	}
	if n := g.networks.Len(); n != maxNetworks {
		t.Errorf("%d networks are remembered", n)
	}
	if lines > guessLines {
		t.Errorf("%d lines within a moment", lines)
	}
}
