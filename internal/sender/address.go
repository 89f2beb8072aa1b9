package sender

import (
	"net/netip"
	"slices"
)

// AddressError says that callbacks may not reach an address. It names the kind of the address only: the address a name
// has inside the operator's network is none of the client's business.
type AddressError struct{ Kind string }

// Error says what kind of address it is.
func (e *AddressError) Error() string { return "callbacks may not reach " + e.Kind }

// special are the networks that are not for the public internet, from the registries of special-purpose addresses of
// IANA (RFC 6890 and what came after), and what else stands for the inside of a network. The first that fits counts.
var special = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("0.0.0.0/32"), "the unspecified address"},
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of this network (0.0.0.0/8)"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address (RFC 1918)"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address (RFC 1918)"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address (RFC 1918)"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier's shared address (100.64.0.0/10)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a protocol assignment (192.0.0.0/24)"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address (240.0.0.0/4)"},

	{netip.MustParsePrefix("::/128"), "the unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("fc00::/7"), "a unique-local address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
	{netip.MustParsePrefix("100::/64"), "the discard prefix"},
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address"},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address"},
	{netip.MustParsePrefix("2001:2::/48"), "a benchmarking address"},
	{netip.MustParsePrefix("2001::/23"), "a protocol assignment (2001::/23)"},
}

// metadata are the addresses at which clouds hand out credentials. They must be allowed each by itself: a network that
// contains one, allowed for the sake of its other hosts, does not allow it.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Google, Azure and most others
	netip.MustParseAddr("169.254.170.2"),   // AWS, tasks in containers
	netip.MustParseAddr("169.254.170.23"),  // AWS, pods
	netip.MustParseAddr("fd00:ec2::254"),   // AWS by IPv6
	netip.MustParseAddr("fd00:ec2::23"),    // AWS, pods by IPv6
	netip.MustParseAddr("fd20:ce::254"),    // Google by IPv6
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure's host, a public address by its looks
}

// transition are the forms in which an IPv6 address carries an IPv4 address that the packets may end up at.
var transition = []struct {
	prefix netip.Prefix
	kind   string
	at     int // where in the 16 bytes the IPv4 address stands
	invert bool
}{
	{netip.MustParsePrefix("::ffff:0:0/96"), "an IPv4-mapped address", 12, false},
	{netip.MustParsePrefix("::/96"), "an IPv4-compatible address", 12, false},
	{netip.MustParsePrefix("64:ff9b::/96"), "a NAT64 address", 12, false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a NAT64 address", 12, false}, // as it is with the usual /96 out of it
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address", 2, false},
	{netip.MustParsePrefix("2001::/32"), "a Teredo address", 12, true},
}

var globalUnicast = netip.MustParsePrefix("2000::/3") // all that IANA has opened of IPv6 for public hosts

// policy is which addresses callbacks may reach.
type policy struct{ allow []netip.Prefix }

func newPolicy(allow []netip.Prefix) policy {
	p := policy{allow: make([]netip.Prefix, 0, len(allow))}
	for _, prefix := range allow {
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		p.allow = append(p.allow, prefix.Masked())
	}
	return p
}

// judge returns an *AddressError unless callbacks may reach the address: a public one by https, one in an allowed
// network also by http (plain). An IPv6 address that carries an IPv4 address is judged by the IPv4 address; and as
// nobody's receiver has its public address in such a form, an unallowed one is refused too, unless the form itself is
// allowed (64:ff9b::/96 where DNS64 gives every IPv4 receiver such an address) and the IPv4 address is public.
func (p policy) judge(addr netip.Addr, plain bool) error {
	addr = addr.WithZone("")
	if inner, kind, ok := carried(addr); ok {
		switch {
		case p.allowed(inner):
			return nil
		case !p.allowed(addr):
			return &AddressError{Kind: kind}
		default:
			return p.judge(inner, plain)
		}
	}
	if p.allowed(addr) {
		return nil
	}
	if kind := kindOf(addr); kind != "" {
		return &AddressError{Kind: kind}
	}
	if plain {
		return &AddressError{Kind: "a public address by plain http"}
	}
	return nil
}

func (p policy) allowed(addr netip.Addr) bool {
	return slices.ContainsFunc(p.allow, func(prefix netip.Prefix) bool {
		return prefix.Contains(addr) && (prefix.IsSingleIP() || !slices.Contains(metadata, addr))
	})
}

// kindOf names what is special about an address; it is empty for a public one.
func kindOf(addr netip.Addr) string {
	if slices.Contains(metadata, addr) {
		return "a cloud's metadata address"
	}
	for _, s := range special {
		if s.prefix.Contains(addr) {
			return s.kind
		}
	}
	if !addr.IsValid() || addr.Is6() && !globalUnicast.Contains(addr) {
		return "an address that is not a public one"
	}
	return ""
}

// carried takes the IPv4 address out of an IPv6 address that carries one.
func carried(addr netip.Addr) (inner netip.Addr, kind string, ok bool) {
	if !addr.Is6() || addr.IsUnspecified() || addr == netip.IPv6Loopback() {
		return netip.Addr{}, "", false
	}
	for _, t := range transition {
		// Prefix.Contains never takes a mapped address for an IPv6 one.
		if t.prefix.Contains(addr) || addr.Is4In6() && t.prefix.Addr().Is4In6() {
			bytes := addr.As16()
			four := [4]byte(bytes[t.at : t.at+4])
			if t.invert {
				for i := range four {
					four[i] = ^four[i]
				}
			}
			return netip.AddrFrom4(four), t.kind, true
		}
	}
	return netip.Addr{}, "", false
}
