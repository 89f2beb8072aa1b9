package sender

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// MaxURL is the longest URL of a callback, in bytes.
const MaxURL = 2048

// URLError is why a URL cannot be a callback's. Its text is for the client who sent the URL, and
// repeats no part of it.
type URLError struct{ Reason string }

// Error is the reason.
func (e *URLError) Error() string { return e.Reason }

// CheckURL checks a callback's URL when it is registered, with the same allowed networks as the
// Sender. It finds early what can be found without looking up a name; each attempt judges the
// address that it dials anyway. The error is a *URLError.
//
//   - https reaches public addresses and the allowed networks; http reaches only the allowed
//     networks, so without any it is refused at once.
//   - A literal address is judged like a dialled one, and localhost like a loopback address.
func CheckURL(raw string, allow []netip.Prefix) error {
	if len(raw) > MaxURL {
		return &URLError{"the URL is longer than " + strconv.Itoa(MaxURL) + " bytes"}
	}
	if strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return &URLError{
			"the URL holds a space, a control character, or one outside ASCII: write these percent-encoded, " +
				"and an international name in its xn-- form"}
	}
	u, err := parseTarget(raw)
	if err != nil {
		return err
	}
	if strings.Contains(raw, "#") {
		return &URLError{"the URL has a fragment, which is never sent"}
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return &URLError{"the URL's port is not between 1 and 65535"}
		}
	}

	plain, p, host := u.Scheme == "http", newPolicy(allow), u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return &URLError{"the URL's address has a zone"}
		}
		if err := p.judge(addr, plain); err != nil {
			return &URLError{err.Error()}
		}
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if reason := checkName(name); reason != "" {
		return &URLError{reason}
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761: always loopback
		err := p.judge(netip.IPv6Loopback(), plain)
		if err != nil {
			err = p.judge(netip.AddrFrom4([4]byte{127, 0, 0, 1}), plain)
		}
		if err != nil {
			return &URLError{err.Error()}
		}
	}
	if plain && len(allow) == 0 {
		return &URLError{"the URL must be https: http is for networks that the operator allows, and there are none"}
	}
	return nil
}

// ParseURL parses the URL of a Request for its Target; nil if no attempt can be made at it.
func ParseURL(raw string) *url.URL {
	u, err := parseTarget(raw)
	if err != nil {
		return nil
	}
	return u
}

// parseTarget checks what every attempt needs. CheckURL checked everything else when the URL was
// registered.
func parseTarget(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, &URLError{"the URL is malformed"} // the cause would repeat the URL
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, &URLError{"the URL must begin with https:// (or http://, in networks that the operator allows)"}
	case u.Opaque != "" || u.Hostname() == "":
		return nil, &URLError{"the URL names no host"}
	case u.User != nil:
		return nil, &URLError{"the URL holds a user name or password: these belong into the callback's auth"}
	}
	return u, nil
}

// checkName checks a host name, given in lower case and without its last dot.
func checkName(name string) (reason string) {
	if len(name) > 253 {
		return "the URL's host name is longer than 253 characters"
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "the URL's host name has an empty part, or one longer than 63 characters"
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || label[0] == '-' ||
			label[len(label)-1] == '-' {
			return "the URL's host is neither a name nor an address"
		}
	}
	// 0x7f.1 or 2130706433: the C library's resolvers take these for addresses, by little-known
	// rules.
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "the URL's host looks like an IPv4 address but is not written as four decimal numbers"
	}
	return ""
}

// CheckProxy checks the setting RELAY_CALLBACK_PROXY: http or https, a host, and at most a user and
// a password.
func CheckProxy(proxy *url.URL) error {
	if proxy.Scheme != "http" && proxy.Scheme != "https" {
		return errors.New("the proxy for callbacks must be an http:// or https:// URL")
	}
	if proxy.Hostname() == "" || (proxy.Path != "" && proxy.Path != "/") ||
		proxy.RawQuery != "" || proxy.Fragment != "" {
		return errors.New("the proxy for callbacks must name a host, and no path")
	}
	return nil
}
