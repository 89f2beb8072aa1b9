package ingress

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Network returns the network that an address is counted under: the address itself for IPv4, its /64 for IPv6, because
// the owner of one address of a /64 has all of them. It returns the zero Prefix for an unknown address.
func Network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// AddrOf returns the IP address of a connection's end, or the zero Addr if it has none.
func AddrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	if a == nil {
		return netip.Addr{}
	}
	return parseHop(a.String())
}

// Proxies are the networks of the trusted proxies: what they send in X-Forwarded-For is believed.
type Proxies []netip.Prefix

// Contains reports whether an address is that of a trusted proxy.
func (p Proxies) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, network := range p {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// maxHops bounds how many entries of X-Forwarded-For are examined. No operator has that many
// proxies.
const maxHops = 32

// PeerAddr returns the address at the other end of a request's connection.
func PeerAddr(r *http.Request) netip.Addr { return parseHop(r.RemoteAddr) }

// ClientAddr returns the address that a request came from. That is the peer's own address, unless
// the peer is a trusted proxy. Then it is the rightmost address in X-Forwarded-For that is not a
// trusted proxy's; everything left of it was written by the client or by an unknown proxy and is
// not believed. An entry that is not an address ends the search with the last proxy before it.
func (p Proxies) ClientAddr(r *http.Request) netip.Addr {
	addr := PeerAddr(r)
	if !p.Contains(addr) {
		return addr
	}
	hops := 0
	lines := r.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; hops++ {
			entry := rest
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				entry, rest = rest[at+1:], rest[:at]
			} else {
				more = false
			}
			hop := parseHop(strings.TrimSpace(entry))
			if !hop.IsValid() || hops >= maxHops {
				return addr
			}
			if addr = hop; !p.Contains(hop) {
				return addr
			}
		}
	}
	return addr
}

// parseHop parses an address as it is written in X-Forwarded-For or http.Request.RemoteAddr: with
// or without a port, IPv6 with or without brackets.
func parseHop(s string) netip.Addr {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap().WithZone("")
	}
	if with, err := netip.ParseAddrPort(s); err == nil {
		return with.Addr().Unmap().WithZone("")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if addr, err := netip.ParseAddr(inner); err == nil {
				return addr.Unmap().WithZone("")
			}
		}
	}
	return netip.Addr{}
}

// OriginOf returns an address's origin as browsers write it (RFC 6454): in lower case, without the
// scheme's default port.
func OriginOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	for scheme, port := range map[string]string{"https": ":443", "http": ":80"} {
		if u.Scheme == scheme {
			host = strings.TrimSuffix(host, port)
		}
	}
	return u.Scheme + "://" + host
}
