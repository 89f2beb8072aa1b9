package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/audatex-relay/relay/internal/ingress"
)

// No error of this file quotes an address: one that did not parse as it was meant may hold a
// password anywhere.

// parseAddress reads an absolute address of one of the schemes.
func parseAddress(text string, schemes ...string) (*url.URL, error) {
	wanted := strings.Join(schemes, ":// or ") + "://"
	if !strings.Contains(text, "://") {
		return nil, fmt.Errorf("is not an absolute address: it must begin with %s", wanted)
	}
	if strings.ContainsFunc(text, unicode.IsSpace) {
		return nil, errors.New("has a blank within it")
	}
	u, err := url.Parse(text)
	const escapes = "in a user name or password % is written as %25, @ as %40, : as %3A, / as %2F, ? as %3F and # " +
		"as %23"
	switch {
	case err != nil:
		return nil, errors.New("cannot be read as an address: " + escapes)
	case !slices.Contains(schemes, u.Scheme):
		return nil, fmt.Errorf("must begin with %s", wanted)
	case u.Hostname() == "":
		return nil, errors.New("names no host")
	case !isHost(u.Hostname()):
		return nil, errors.New("holds a character that no host's name has: " + escapes)
	case strings.ContainsRune(u.Path+u.RawQuery+u.Fragment, '@'):
		return nil, errors.New("has an @ behind its host: " + escapes)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has a port that is not between 1 and 65535")
		}
	}
	return u, nil
}

// isHost reports whether a text can be a host's name or address, with letters of any script.
func isHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsValid()
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
	})
}

// CheckListener checks an address to listen on: host:port, without a host all of them.
func CheckListener(text string) error {
	host, port, err := net.SplitHostPort(text)
	switch {
	case err != nil:
		return errors.New("is not host:port, such as 127.0.0.1:8080 or :8080")
	case !isHost(host):
		return errors.New("holds a character that no host's name has")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("has no port between 0 and 65535 behind its last colon")
	}
	return nil
}

func (c *Config) checkURLs() error {
	for _, u := range []struct {
		name  string
		value *string
		// bare addresses get paths or parameters put behind them.
		bare, optional bool
	}{
		{"RELAY_PUBLIC_URL", &c.PublicURL, true, true},
		{"RELAY_AUDATEX_BASE_URL", &c.AudatexBaseURL, true, false},
		{"RELAY_AUDATEX_AUTH_URL", &c.AudatexAuthURL, true, false},
		{"RELAY_AUDATEX_TOKEN_URL", &c.AudatexTokenURL, true, false},
		{"RELAY_CALLBACK_PROXY", &c.CallbackProxy, false, true},
	} {
		if *u.value == "" && u.optional {
			continue
		}
		parsed, err := parseAddress(*u.value, "http", "https")
		if err != nil {
			return Wrong(u.name, "%w", err)
		}
		more := parsed.RawQuery != "" || parsed.ForceQuery || strings.Contains(*u.value, "#")
		switch {
		case u.bare && (more || parsed.User != nil):
			return Wrong(u.name, "has a user name, a query or a fragment: paths are put behind it")
		case !u.bare && (more || strings.Trim(parsed.Path, "/") != ""):
			return Wrong(u.name, "has a path, a query or a fragment: a proxy is named as http://host:port, "+
				"with user:password@ before the host if it asks for a login")
		}
		*u.value = strings.TrimRight(*u.value, "/")
		if u.name == "RELAY_CALLBACK_PROXY" {
			c.Proxy = parsed
		}
	}
	for i, origin := range c.ConsentReturnOrigins {
		parsed, err := parseAddress(origin, "https")
		if err != nil {
			return Wrong("RELAY_CONSENT_RETURN_ORIGINS", "an entry %w", err)
		}
		if parsed.User != nil || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.ForceQuery ||
			strings.Contains(origin, "#") {
			return Wrong("RELAY_CONSENT_RETURN_ORIGINS",
				"an entry has more than an origin: it is written as https://bms.example, with a port if it needs one")
		}
		c.ConsentReturnOrigins[i] = ingress.OriginOf(parsed)
	}
	return nil
}

// parseNetwork reads a network such as 10.0.0.0/8; an address alone is a network of one.
func parseNetwork(text string) (netip.Prefix, error) {
	text = strings.TrimSpace(text)
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s is not a network such as 10.0.0.0/8, nor an address", shown(text))
	}
	if network.Addr().Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%s is not a network of IPv4 addresses, nor one of IPv6: "+
				"write it as one of them", network)
		}
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network.Masked(), nil
}

// shown quotes a text that can only be a network written wrongly.
func shown(text string) string {
	if strings.Trim(text, "0123456789abcdefABCDEF.:/") == "" && strings.ContainsAny(text, ".:") && len(text) <= 50 {
		return strconv.Quote(text)
	}
	return "an entry"
}

// shownWord quotes the value of a setting that is a word. One that looks like an address was meant
// for another setting.
func shownWord(text string) string {
	if strings.ContainsAny(text, "@:\\") || len(text) > 50 {
		return "the value"
	}
	return strconv.Quote(text)
}
