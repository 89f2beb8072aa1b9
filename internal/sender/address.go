package sender

import (
	"net/netip"
	"slices"
)

// AddressError means that callbacks may not reach an address. It names only the kind of the
// address: which address a name has inside the operator's network is not the client's business.
type AddressError struct{ Kind string }

// Error names the kind of address.
func (e *AddressError) Error() string { return "callbacks may not reach " + e.Kind }

// special are the networks that are not part of the public internet: those in IANA's registries of
// special-purpose addresses (RFC 6890 and its successors), and others that are used inside
// networks. The first match counts.
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

// metadata are the addresses at which clouds hand out credentials. Each must be allowed by itself:
// allowing a network that contains one, because of its other hosts, does not allow it.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Google, Azure and most others
	netip.MustParseAddr("169.254.170.2"),   // AWS, tasks in containers
	netip.MustParseAddr("169.254.170.23"),  // AWS, pods
	netip.MustParseAddr("fd00:ec2::254"),   // AWS by IPv6
	netip.MustParseAddr("fd00:ec2::23"),    // AWS, pods by IPv6
	netip.MustParseAddr("fd20:ce::254"),    // Google by IPv6
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure's host, although it looks like a public address
}

// transition are the forms in which an IPv6 address embeds an IPv4 address that the packets may
// finally reach.
var transition = []struct {
	prefix netip.Prefix
	kind   string
	places []place // where in the 16 bytes an IPv4 address may be
}{
	{netip.MustParsePrefix("::ffff:0:0/96"), "an IPv4-mapped address", last},
	{netip.MustParsePrefix("::/96"), "an IPv4-compatible address", last},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4-translated address", last},
	{netip.MustParsePrefix("64:ff9b::/96"), "a NAT64 address", last},
	// A network uses a prefix within this one. Its length, which we cannot know, decides where the
	// IPv4 address is (RFC 6052 section 2.2). These are the places for the lengths 48, 56, 64 and
	// 96.
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a NAT64 address", []place{
		{at: [4]int{6, 7, 9, 10}}, {at: [4]int{7, 9, 10, 11}}, {at: [4]int{9, 10, 11, 12}},
		{at: [4]int{12, 13, 14, 15}},
	}},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address", []place{{at: [4]int{2, 3, 4, 5}}}},
	// The client's address, and the address of the server that helps to establish the connection.
	{netip.MustParsePrefix("2001::/32"), "a Teredo address", []place{
		{at: [4]int{12, 13, 14, 15}, inverted: true}, {at: [4]int{4, 5, 6, 7}, helper: true},
	}},
}

// place is where an IPv4 address may be in an IPv6 address.
type place struct {
	at       [4]int
	inverted bool // all its bits are inverted
	helper   bool // packets pass through the address, and do not end there
}

var last = []place{{at: [4]int{12, 13, 14, 15}}}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3") // everything that IANA has opened for public IPv6 hosts
	thisNetwork   = netip.MustParsePrefix("0.0.0.0/8")
)

// policy decides which addresses callbacks may reach.
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

// judge returns an *AddressError unless callbacks may reach the address. A public address may be
// reached by https, an address in an allowed network also by http (plain). An IPv6 address that
// embeds an IPv4 address is judged by the latter.
func (p policy) judge(addr netip.Addr, plain bool) error {
	addr = addr.WithZone("")
	if inner, kind := carried(addr); len(inner) > 0 {
		return p.judgeCarried(addr, inner, kind, plain)
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

// judgeCarried judges an address by the IPv4 addresses that it may embed. One of them must be
// allowed. No receiver has its public address in such a form, so a public one is accepted only if
// the form itself is allowed (64:ff9b::/96 where DNS64 gives every IPv4 receiver such an address).
// And none of the others may be one that must not be reached.
func (p policy) judgeCarried(addr netip.Addr, inner []carriedAddr, kind string, plain bool) error {
	form, found := p.allowed(addr), false
	for _, c := range inner {
		switch {
		case thisNetwork.Contains(c.addr):
			// no destination for packets: the address is in another place, or there is none
		case p.allowed(c.addr):
			found = found || !c.helper
		case !form && kindOf(c.addr) != "":
			return &AddressError{Kind: kind}
		default:
			if err := p.judge(c.addr, plain && !c.helper); err != nil && (form || kindOf(c.addr) != "") {
				return err
			} else if err != nil {
				return &AddressError{Kind: kind}
			}
			found = found || form && !c.helper
		}
	}
	if !found {
		return &AddressError{Kind: kind}
	}
	return nil
}

func (p policy) allowed(addr netip.Addr) bool {
	return slices.ContainsFunc(p.allow, func(prefix netip.Prefix) bool {
		return prefix.Contains(addr) && (prefix.IsSingleIP() || !slices.Contains(metadata, addr))
	})
}

// kindOf returns what is special about an address, or "" for a public one.
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

// carriedAddr is an IPv4 address that an IPv6 address may embed.
type carriedAddr struct {
	addr   netip.Addr
	helper bool
}

// carried returns the IPv4 addresses that an IPv6 address may embed, and the name of the form.
func carried(addr netip.Addr) (inner []carriedAddr, kind string) {
	if !addr.Is6() || addr.IsUnspecified() || addr == netip.IPv6Loopback() {
		return nil, ""
	}
	bytes := addr.As16()
	for _, t := range transition {
		// Prefix.Contains never treats a mapped address as an IPv6 address.
		if !t.prefix.Contains(addr) && !(addr.Is4In6() && t.prefix.Addr().Is4In6()) {
			continue
		}
		kind = t.kind
		for _, place := range t.places {
			var four [4]byte
			for i, at := range place.at {
				if four[i] = bytes[at]; place.inverted {
					four[i] = ^four[i]
				}
			}
			inner = append(inner, carriedAddr{netip.AddrFrom4(four), place.helper})
		}
		break
	}
	// ISATAP (RFC 5214, section 6.1) puts it after 0:5efe, 100:5efe, 200:5efe or 300:5efe, within
	// any prefix.
	if bytes[8]&^3 == 0 && bytes[9] == 0 && bytes[10] == 0x5e && bytes[11] == 0xfe {
		inner = append(inner, carriedAddr{addr: netip.AddrFrom4([4]byte(bytes[12:]))})
		if kind == "" {
			kind = "an ISATAP address"
		}
	}
	return inner, kind
}
