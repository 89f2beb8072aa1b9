package sender

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func prefixes(t testing.TB, texts ...string) []netip.Prefix {
	t.Helper()
	var ps []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

// The edges of every network that callbacks may not reach, and their neighbours that they may.
func TestAddressesWithoutAllowance(t *testing.T) {
	t.Parallel()
	cases := []struct{ addr, kind string }{
		{"0.0.0.0", "unspecified"}, {"0.0.0.1", "this network"}, {"0.255.255.255", "this network"}, {"1.0.0.0", ""},
		{"1.1.1.1", ""},
		{"9.255.255.255", ""}, {"10.0.0.0", "private"}, {"10.255.255.255", "private"}, {"11.0.0.0", ""},
		{"100.63.255.255", ""}, {"100.64.0.0", "carrier"}, {"100.127.255.255", "carrier"}, {"100.128.0.0", ""},
		{"100.100.100.200", "metadata"},
		{"126.255.255.255", ""}, {"127.0.0.0", "loopback"}, {"127.0.0.1", "loopback"}, {"127.255.255.255", "loopback"},
		{"128.0.0.0", ""},
		{"169.253.255.255", ""}, {"169.254.0.0", "link-local"}, {"169.254.169.254", "metadata"},
		{"169.254.170.2", "metadata"}, {"169.254.255.255", "link-local"}, {"169.255.0.0", ""},
		{"168.63.129.15", ""}, {"168.63.129.16", "metadata"},
		{"172.15.255.255", ""}, {"172.16.0.0", "private"}, {"172.31.255.255", "private"}, {"172.32.0.0", ""},
		{"191.255.255.255", ""}, {"192.0.0.0", "192.0.0.0/24"}, {"192.0.0.192", "metadata"},
		{"192.0.0.255", "192.0.0.0/24"},
		{"192.0.1.0", ""},
		{"192.0.2.0", "documentation"}, {"192.0.2.255", "documentation"}, {"192.0.3.0", ""}, {"192.88.99.1", "6to4"},
		{"192.167.255.255", ""}, {"192.168.0.0", "private"}, {"192.168.255.255", "private"}, {"192.169.0.0", ""},
		{"198.17.255.255", ""}, {"198.18.0.0", "benchmarking"}, {"198.19.255.255", "benchmarking"}, {"198.20.0.0", ""},
		{"198.51.100.7", "documentation"}, {"203.0.113.7", "documentation"}, {"203.0.114.0", ""},
		{"223.255.255.255", ""}, {"224.0.0.0", "multicast"}, {"239.255.255.255", "multicast"},
		{"240.0.0.0", "reserved"},
		{"255.255.255.254", "reserved"}, {"255.255.255.255", "broadcast"},

		{"::", "unspecified"}, {"::1", "loopback"}, {"::2", "compatible"}, {"::8.8.8.8", "compatible"},
		{"::127.0.0.1", "compatible"}, {"::ffff:8.8.8.8", "mapped"}, {"::ffff:127.0.0.1", "mapped"},
		{"::ffff:169.254.169.254", "mapped"},
		{"64:ff9b::8.8.8.8", "NAT64"}, {"64:ff9b::10.0.0.1", "NAT64"}, {"64:ff9b:1::1", "NAT64"},
		{"64:ff9b:1:ffff::1", "NAT64"}, {"64:ff9b:2::1", "not a public"}, {"64:ff9b::1:0:0", "not a public"},
		{"100::1", "discard"}, {"100:0:0:1::1", "not a public"}, {"1fff::1", "not a public"}, {"2000::1", ""},
		{"2001::1", "Teredo"}, {"2001:0:ffff::1", "Teredo"}, {"2001:1::1", "protocol"}, {"2001:2::1", "benchmarking"},
		{"2001:20::1", "protocol"}, {"2001:1ff:ffff::1", "protocol"}, {"2001:200::1", ""}, {"2001:4860:4860::8888", ""},
		{"2001:db7::1", ""}, {"2001:db8::1", "documentation"}, {"2001:db9::1", ""}, {"2002::1", "6to4"},
		{"2002:7f00:1::", "6to4"}, {"2003::1", ""}, {"2606:4700::1111", ""}, {"2606:4700::5efe:8.8.8.8", "ISATAP"},
		{"2606:4700::200:5efe:127.0.0.1", "ISATAP"}, {"2606:4700::100:5efe:8.8.8.8", "ISATAP"},
		{"2606:4700::300:5efe:8.8.8.8", "ISATAP"}, {"2606:4700::400:5efe:8.8.8.8", ""},
		{"::ffff:0:8.8.8.8", "translated"},
		{"3fff::1", "documentation"}, {"3fff:1000::1", ""}, {"4000::1", "not a public"}, {"5f00::1", "not a public"},
		{"fc00::1", "unique-local"}, {"fd00:ec2::254", "metadata"}, {"fd20:ce::254", "metadata"},
		{"fdff::1", "unique-local"},
		{"fe00::1", "not a public"}, {"fe80::1", "link-local"}, {"fe80::1%eth0", "link-local"},
		{"febf::1", "link-local"},
		{"fec0::1", "site-local"}, {"ff02::1", "multicast"}, {"ff0e::1", "multicast"},
	}
	p := newPolicy(nil)
	for _, c := range cases {
		addr := netip.MustParseAddr(c.addr)
		err := p.judge(addr, false)
		var refused *AddressError
		switch {
		case c.kind == "" && err != nil:
			t.Errorf("%s is refused: %v", c.addr, err)
		case c.kind != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Kind, c.kind)):
			t.Errorf("%s: %v, want %q", c.addr, err, c.kind)
		}
		if p.judge(addr, true) == nil {
			t.Errorf("%s may be reached by plain http", c.addr)
		}
	}
	if p.judge(netip.Addr{}, false) == nil {
		t.Error("no address at all may be reached")
	}
}

func TestAddressesWithAllowance(t *testing.T) {
	t.Parallel()
	cases := []struct {
		allow string
		addr  string
		https bool
		http  bool
	}{
		{"10.1.0.0/16", "10.1.2.3", true, true},
		{"10.1.2.3/16", "10.1.9.9", true, true}, // host bits are no matter
		{"10.1.0.0/16", "10.2.0.1", false, false},
		{"10.1.0.0/16", "1.1.1.1", true, false},
		{"8.8.8.0/24", "8.8.8.8", true, true}, // a public network may be allowed for http
		{"10.1.0.0/16", "::ffff:10.1.2.3", true, true},
		{"::ffff:10.1.0.0/112", "10.1.2.3", true, true}, // an allowance may be written mapped
		{"10.1.0.0/16", "::10.1.2.3", true, true},
		{"10.1.0.0/16", "64:ff9b::10.1.2.3", true, true},
		{"10.1.0.0/16", "64:ff9b:1::10.1.2.3", true, true},
		{"10.1.0.0/16", "64:ff9b::10.2.0.1", false, false},
		{"10.1.0.0/16", "64:ff9b::8.8.8.8", false, false},
		{"10.1.0.0/16", "2002:a01:203::1", true, true},
		{"10.1.0.0/16", "2002:a02:203::1", false, false},
		{"10.1.0.0/16", "2001:0:1:2:3:4:f5fe:fdfc", true, true}, // Teredo: 10.1.2.3 inverted
		{"10.1.0.0/16", "2001:0:1:2:3:4:a01:203", false, false},
		// Teredo names its server too: a public one is none of our business, another one is judged.
		{"10.1.0.0/16", "2001:0:4136:e378:8000:63bf:f5fe:fdfc", true, true},
		{"10.1.0.0/16", "2001:0:7f00:1:8000:63bf:f5fe:fdfc", false, false},
		{"2001::/32", "2001:0:4136:e378:8000:63bf:f7f7:f7f7", true, false},
		{"2001::/32", "2001:0:4136:e378:8000:63bf:80ff:fffe", false, false},
		{"2001::/32", "2001:0:a9fe:a9fe:8000:63bf:f7f7:f7f7", false, false},
		{"2001::/32", "2001:0:a00:1::f7f7:f7f7", false, false},
		{"2002::/16", "2002:808:808::1", true, false},
		{"2002::/16", "2002:7f00:1::1", false, false},
		{"2002::/16", "2002:a9fe:a9fe::", false, false},
		{"2002:a00::/24", "2002:a00:1::", false, false},
		// ISATAP below any prefix.
		{"10.1.0.0/16", "2606:4700::5efe:10.1.2.3", true, true},
		{"10.1.0.0/16", "2606:4700::200:5efe:10.1.2.3", true, true},
		{"10.1.0.0/16", "2606:4700::5efe:10.2.0.1", false, false},
		{"10.1.0.0/16", "2606:4700::300:5efe:10.2.0.1", false, false},
		{"10.1.0.0/16", "2606:4700::200:5efe:127.0.0.1", false, false},
		{"10.1.0.0/16", "2606:4700::5efe:8.8.8.8", false, false},
		{"10.1.0.0/16", "fe80::5efe:10.1.2.3", true, true},
		{"fe80::/10", "fe80::5efe:127.0.0.1", false, false},
		{"fe80::/10", "fe80::200:5efe:169.254.169.254", false, false},
		{"fd00::/8", "fd00:1::5efe:8.8.8.8", true, false},
		{"fd00::/8", "fd00:1::5efe:192.168.1.1", false, false},
		{"2606:4700::/32", "2606:4700::5efe:10.0.0.1", false, false},
		{"2002::/16", "2002:808:808::5efe:10.0.0.1", false, false},
		// NAT64 with a prefix of its own, of each length: 10.1.2.3 and 127.0.0.1.
		{"10.1.0.0/16", "64:ff9b:1:a01:2:300::", true, false},
		{"10.1.0.0/16", "64:ff9b:1:770a:1:203::", true, false},
		{"10.1.0.0/16", "64:ff9b:1:7700:a:102:300::", true, false},
		{"10.1.0.0/16", "64:ff9b:1:7700::10.1.2.3", true, false},
		{"10.1.0.0/16", "64:ff9b:1:7f00:0:100::", false, false},
		{"10.1.0.0/16", "64:ff9b:1:7f00:0:100:a01:203", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1:808:8:800::", true, false},
		{"64:ff9b:1::/48", "64:ff9b:1:7f00:0:100::", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1:7f:0:1::", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1:0:7f:0:100:0", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1::127.0.0.1", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1:7f00:0:100:808:808", false, false},
		{"64:ff9b:1::/48", "64:ff9b:1:a9fe:a9:fe00::", false, false},
		// The stateless translation of old.
		{"10.1.0.0/16", "::ffff:0:10.1.2.3", true, true},
		{"10.1.0.0/16", "::ffff:0:10.2.0.1", false, false},
		{"::/0", "::ffff:0:127.0.0.1", false, false},
		{"::/0", "::127.0.0.1", false, false},
		{"::/0", "::ffff:127.0.0.1", false, false},
		{"::ffff:0:0/96", "::ffff:127.0.0.1", true, true}, // that is 0.0.0.0/0
		{"::/0", "::2", false, false},
		// The form itself allowed: the IPv4 address it carries is still judged.
		{"64:ff9b::/96", "64:ff9b::8.8.8.8", true, false},
		{"64:ff9b::/96", "64:ff9b::10.0.0.1", false, false},
		{"64:ff9b::/96", "64:ff9b::169.254.169.254", false, false},
		{"fd00::/8", "fd00::1", true, true},
		{"fe80::/10", "fe80::1%eth0", true, true},
		{"::/0", "::1", true, true},
		{"::/0", "10.0.0.1", false, false},
		{"::/0", "64:ff9b::10.0.0.1", false, false},
		{"0.0.0.0/0", "127.0.0.1", true, true},
		// Metadata is never allowed by the way.
		{"0.0.0.0/0", "169.254.169.254", false, false},
		{"169.254.0.0/16", "169.254.169.254", false, false},
		{"169.254.0.0/16", "::ffff:169.254.169.254", false, false},
		{"169.254.0.0/16", "169.254.1.1", true, true},
		{"fd00::/8", "fd00:ec2::254", false, false},
		{"169.254.169.254/32", "169.254.169.254", true, true},
		{"168.63.0.0/16", "168.63.129.16", false, false},
	}
	for _, c := range cases {
		p := newPolicy(prefixes(t, c.allow))
		addr := netip.MustParseAddr(c.addr)
		if err := p.judge(addr, false); (err == nil) != c.https {
			t.Errorf("%s allowed, %s by https: %v", c.allow, c.addr, err)
		}
		if err := p.judge(addr, true); (err == nil) != c.http {
			t.Errorf("%s allowed, %s by http: %v", c.allow, c.addr, err)
		}
	}
}

// With every policy, http reaches no more than https. A refused IPv4 address is refused in every
// form that contains it. Nothing that net/netip calls private or local is reached unless it is in
// an allowed network.
func TestPolicyInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		four := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
		six := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
		var allow []netip.Prefix
		for range rapid.IntRange(0, 3).Draw(t, "allowances") {
			base := rapid.SampledFrom([]netip.Addr{four, six, netip.MustParseAddr("10.0.0.0"),
				netip.MustParseAddr("64:ff9b::"),
				netip.MustParseAddr("127.0.0.1")}).Draw(t, "base")
			allow = append(allow, netip.PrefixFrom(base, rapid.IntRange(0, base.BitLen()).Draw(t, "bits")))
		}
		p := newPolicy(allow)
		inside := func(a netip.Addr) bool {
			for _, prefix := range allow {
				if prefix.Masked().Contains(a) {
					return true
				}
			}
			return false
		}
		for _, addr := range []netip.Addr{four, six} {
			if p.judge(addr, true) == nil && p.judge(addr, false) != nil {
				t.Fatalf("%v by http but not by https", addr)
			}
			local := addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() ||
				addr.IsUnspecified() || !addr.IsGlobalUnicast()
			if local && !inside(addr) && p.judge(addr, false) == nil {
				t.Fatalf("%v is reached, allowed is %v", addr, allow)
			}
		}
		for _, plain := range []bool{false, true} {
			if p.judge(four, plain) == nil {
				continue
			}
			b := four.As4()
			forms := map[string][]byte{
				"::ffff:0:0":                 {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
				"64:ff9b::":                  {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
				"2002::":                     {2: b[0], 3: b[1], 4: b[2], 5: b[3], 15: 1},
				"2001::":                     {12: ^b[0], 13: ^b[1], 14: ^b[2], 15: ^b[3]},
				"2001:0:808:808:f7f7:f7f7::": {12: ^b[0], 13: ^b[1], 14: ^b[2], 15: ^b[3]},
				"2001:0:0:0:0:0:f7f7:f7f7":   {4: b[0], 5: b[1], 6: b[2], 7: b[3]},
				"64:ff9b:1::":                {6: b[0], 7: b[1], 9: b[2], 10: b[3]},
				"64:ff9b:1:7700::":           {7: b[0], 9: b[1], 10: b[2], 11: b[3]},
				"64:ff9b:1:7777::":           {9: b[0], 10: b[1], 11: b[2], 12: b[3]},
				"64:ff9b:1:7777:77::":        {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
				"::ffff:0:0:0":               {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
				"fe80::5efe:0:0":             {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
				"2606:4700::200:5efe:0:0":    {12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			}
			for prefix, bytes := range forms {
				if plain && prefix == "2001:0:0:0:0:0:f7f7:f7f7" {
					continue // a server of Teredo is no receiver: that it is public is enough
				}
				if b[0] == 0 && (strings.HasPrefix(prefix, "64:ff9b:1:") || strings.HasPrefix(prefix, "2001:")) {
					continue // where there are several places, this one is not where it stands
				}
				form := netip.MustParseAddr(prefix).As16()
				for i, x := range bytes {
					form[i] |= x
				}
				if addr := netip.AddrFrom16(form); p.judge(addr, plain) == nil {
					t.Fatalf("%v is refused but %v is not", four, addr)
				}
			}
		}
	})
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	lan := prefixes(t, "10.1.0.0/16")
	cases := []struct {
		url    string
		allow  []netip.Prefix
		reason string
	}{
		{"https://bms.example.com/hook", nil, ""},
		{"https://bms.example.com", nil, ""},
		{"HTTPS://BMS.example.com./hook?a=b&c=%20d", nil, ""},
		{"https://bms.example.com:8443/hook", nil, ""},
		{"https://my_bms.example.com/", nil, ""},
		{"https://xn--bcher-kva.example/", nil, ""},
		{"https://8.8.8.8/hook", nil, ""},
		{"https://[2606:4700::1111]:8443/hook", nil, ""},
		{"https://10.1.2.3/hook", lan, ""},
		{"http://10.1.2.3:8080/hook", lan, ""},
		{"http://bms.lan/hook", lan, ""}, // judged when dialled
		{"http://localhost:9000/", prefixes(t, "127.0.0.0/8"), ""},
		{"http://localhost:9000/", prefixes(t, "::1/128"), ""},
		{"https://" + strings.Repeat("a", 63) + ".example/", nil, ""},

		{"", nil, "begin with https"},
		{"hook", nil, "begin with https"},
		{"/hook", nil, "begin with https"},
		{"//bms.example.com/", nil, "begin with https"},
		{"ftp://bms.example.com/", nil, "begin with https"},
		{"javascript:alert(1)", nil, "begin with https"},
		{"file:///etc/passwd", nil, "begin with https"},
		{"https:bms.example.com", nil, "no host"},
		{"https://", nil, "no host"},
		{"https:///hook", nil, "no host"},
		{"https://:443/hook", nil, "no host"},
		{"https://user@bms.example.com/", nil, "user name"},
		{"https://user:pass@bms.example.com/", nil, "user name"},
		{"https://@bms.example.com/", nil, "user name"},
		{"https://bms.example.com/#part", nil, "fragment"},
		{"https://bms.example.com/#", nil, "fragment"},
		{"https://bms.example.com:/", nil, "port"},
		{"https://bms.example.com:0/", nil, "port"},
		{"https://bms.example.com:65536/", nil, "port"},
		{"https://bms.example.com:99999999999999999999/", nil, "port"},
		{"https://bms.example.com:http/", nil, "malformed"},
		{"https://bms.example.com/%zz", nil, "malformed"},
		{"https://[::1/", nil, "malformed"},
		{"https://bms.example.com/a b", nil, "space"},
		{" https://bms.example.com/", nil, "space"},
		{"https://bms.example.com/\r\nX: y", nil, "control"},
		{"https://bücher.example/", nil, "xn--"},
		{"https://bms.example.com/" + strings.Repeat("a", MaxURL), nil, "longer than 2048"},
		{"https://" + strings.Repeat("a", 64) + ".example/", nil, "longer than 63"},
		{"https://" + strings.Repeat("abcdefg.", 32) + "example/", nil, "longer than 253"},
		{"https://bms..example/", nil, "empty part"},
		{"https://./", nil, "empty part"},
		{"https://-bms.example/", nil, "neither a name"},
		{"https://bms$.example/", nil, "neither a name"},
		{"https://%31%32%37.0.0.1/", nil, "malformed"}, // 127.0.0.1 to some parsers
		{"https://127.1/", nil, "four decimal"},
		{"https://2130706433/", nil, "four decimal"},
		{"https://0x7f000001/", nil, "four decimal"},
		{"https://0x7f.0.0.0x1/", nil, "four decimal"},
		{"https://0177.0.0.1/", nil, "four decimal"},
		{"https://127.0.0.1./", nil, "four decimal"},
		{"https://127.0.0.1/", nil, "loopback"},
		{"https://localhost/", nil, "loopback"},
		{"https://LOCALHOST./", nil, "loopback"},
		{"https://db.localhost/", nil, "loopback"},
		{"https://10.2.0.1/", lan, "private"},
		{"https://169.254.169.254/latest/meta-data", nil, "metadata"},
		{"https://[::1]/", nil, "loopback"},
		{"https://[::ffff:127.0.0.1]/", nil, "mapped"},
		{"https://[::ffff:8.8.8.8]/", nil, "mapped"},
		{"https://[64:ff9b::7f00:1]/", nil, "NAT64"},
		{"https://[fe80::1%25eth0]/", nil, "zone"},
		{"http://bms.example.com/", nil, "must be https"},
		{"http://8.8.8.8/", lan, "plain http"},
	}
	for _, c := range cases {
		err := CheckURL(c.url, c.allow)
		var refused *URLError
		switch {
		case c.reason == "" && err != nil:
			t.Errorf("%q is refused: %v", c.url, err)
		case c.reason != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Reason, c.reason)):
			t.Errorf("%q: %v, want %q", c.url, err, c.reason)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://bms.example.com/hook", "http://10.1.2.3:80/", "https://[64:ff9b::7f00:1]/",
		"https://user@h/#", "https://0x7f.1", "https://h:0"} {
		f.Add(seed)
	}
	lan := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	f.Fuzz(func(t *testing.T, raw string) {
		err := CheckURL(raw, lan)
		if err != nil {
			var refused *URLError
			if !errors.As(err, &refused) || refused.Reason == "" {
				t.Fatalf("%q: not a URLError with a reason: %#v", raw, err)
			}
			return
		}
		u, err := parseTarget(raw)
		if err != nil {
			t.Fatalf("%q is registered but cannot be sent to: %v", raw, err)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			if err := newPolicy(lan).judge(addr, u.Scheme == "http"); err != nil {
				t.Fatalf("%q is registered: %v", raw, err)
			}
		}
	})
}
