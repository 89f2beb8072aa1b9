package httpapi

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

func TestWaitingRequestsLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	proxy := netip.MustParseAddr("10.9.0.1")
	from := func(key, client string) caller {
		return caller{client: relay.Client{ID: client}, key: relay.Key{ID: key}}
	}
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	w := newWaiting(ingress.Bounds{Total: 100, PerAddress: 20, Exempt: ingress.Proxies{netip.PrefixFrom(proxy, 32)}})
	var all []func()
	take := func(c caller, peer netip.Addr) bool {
		done, err := w.take(c, peer)
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.kind.status != http.StatusTooManyRequests ||
				p.retryAfter == 0 || p.detail == "" {
				t.Fatalf("refused with %v", err)
			}
			return false
		}
		all = append(all, done)
		return true
	}
	many := func(n int, c func(i int) caller, peer func(i int) netip.Addr) (taken int) {
		for i := range n {
			if take(c(i), peer(i)) {
				taken++
			}
		}
		return taken
	}
	keys := func(client string) func(i int) caller {
		return func(i int) caller { return from(client+string(rune('a'+i%26)), client) }
	}
	at := func(a netip.Addr) func(int) netip.Addr { return func(int) netip.Addr { return a } }
	if n := many(50, func(int) caller { return from("k", "one") }, at(proxy)); n != maxWaiting {
		t.Errorf("one key has %d places", n)
	}
	if n := many(200, keys("one"), addr); n != 50-maxWaiting {
		t.Errorf("one client has %d more places than one of its keys, want the half in all", n)
	}
	if n := many(200, keys("two"), at(addr(1))); n != 20-1 { // the first client has one from there
		t.Errorf("one address has %d places", n)
	}
	if n := many(200, keys("three"), at(proxy)); n < 10 {
		t.Errorf("a third client has %d places", n)
	}
	if n := many(500, func(int) caller { return caller{admin: "admin"} }, at(addr(1))); n != 500 {
		t.Errorf("the admin token has %d places of 500", n)
	}
	for _, done := range all {
		done()
	}
	if w.total != 0 || len(w.networks)+len(w.clients)+len(w.keys) != 0 {
		t.Errorf("left when all have gone: %d, %v, %v, %v", w.total, w.networks, w.clients, w.keys)
	}
}
