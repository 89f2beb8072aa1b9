package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/nats-io/nkeys"
)

// checkNATS checks how the external cluster is reached: everything that can be wrong without
// connecting to it.
func (c *StoreConfig) checkNATS() error {
	if c.NATSURL == "" {
		return c.checkNoNATS()
	}
	login, err := c.checkServers()
	if err != nil {
		return err
	}
	switch {
	case c.NATSCreds != "" && c.NATSUser != "":
		return Wrong("RELAY_NATS_CREDS", "is given, and so is RELAY_NATS_USER: give one of them")
	case c.NATSPassword != "" && c.NATSUser == "":
		return Wrong("RELAY_NATS_USER", "is missing: RELAY_NATS_PASSWORD is given")
	case login && (c.NATSCreds != "" || c.NATSUser != ""):
		return Wrong("RELAY_NATS_URL",
			"holds a login, and RELAY_NATS_CREDS or RELAY_NATS_USER is given: give one of them")
	}
	if c.NATSCreds != "" {
		if err := checkCreds(c.NATSCreds); err != nil {
			return Wrong("RELAY_NATS_CREDS", "%w", err)
		}
	}
	return c.checkTLS()
}

// checkNoNATS refuses settings of an external cluster when there is none: they would be ignored
// silently.
func (c *StoreConfig) checkNoNATS() error {
	for _, s := range []struct{ name, value string }{
		{"RELAY_NATS_CREDS", c.NATSCreds}, {"RELAY_NATS_USER", c.NATSUser}, {"RELAY_NATS_PASSWORD", c.NATSPassword},
		{"RELAY_NATS_CA", c.NATSCA}, {"RELAY_NATS_CERT", c.NATSCert}, {"RELAY_NATS_KEY", c.NATSKey},
	} {
		if s.value != "" {
			return Wrong(s.name, "is for an external NATS: name its servers in RELAY_NATS_URL")
		}
	}
	return nil
}

// checkServers checks the addresses of RELAY_NATS_URL and reports whether one of them holds a
// login.
func (c *StoreConfig) checkServers() (login bool, err error) {
	var servers []string
	websocket := false
	for i, server := range strings.Split(c.NATSURL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server // as the NATS client reads it
		}
		parsed, err := parseAddress(server, "nats", "tls", "ws", "wss")
		if err == nil && (strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.ForceQuery ||
			strings.Contains(server, "#")) {
			err = errors.New("has a path, a query or a fragment")
		}
		if err != nil {
			return false, Wrong("RELAY_NATS_URL",
				"address %d is not one such as nats://host:4222 or tls://host:4222: it %w", i+1, err)
		}
		ws := strings.HasPrefix(parsed.Scheme, "ws")
		if i > 0 && ws != websocket {
			return false, Wrong("RELAY_NATS_URL", "mixes ws addresses with others")
		}
		websocket = ws
		login = login || parsed.User != nil
		servers = append(servers, server)
	}
	c.NATSURL = strings.Join(servers, ",")
	return login, nil
}

// checkCreds reads a credentials file as the client will at every login.
func checkCreds(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("the file cannot be read: %w", withoutPath(err))
	}
	if _, err := nkeys.ParseDecoratedJWT(b); err != nil {
		return errors.New(file + " holds no user JWT: it is not a credentials file as `nsc` makes them")
	}
	pair, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return errors.New(file + " holds no user's key: it is not a credentials file as `nsc` makes them")
	}
	pair.Wipe()
	return nil
}

func (c *StoreConfig) checkTLS() error {
	if c.NATSCA != "" {
		pem, err := readFile("RELAY_NATS_CA", c.NATSCA, maxRoots)
		if err != nil {
			return err
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return Wrong("RELAY_NATS_CA", "%s holds no certificate in PEM", c.NATSCA)
		}
	}
	switch {
	case c.NATSCert == "" && c.NATSKey == "":
		return nil
	case c.NATSKey == "":
		return Wrong("RELAY_NATS_KEY", "is missing: RELAY_NATS_CERT is given")
	case c.NATSCert == "":
		return Wrong("RELAY_NATS_CERT", "is missing: RELAY_NATS_KEY is given")
	}
	if _, err := os.ReadFile(c.NATSKey); err != nil {
		return Wrong("RELAY_NATS_KEY", "the file cannot be read: %w", withoutPath(err))
	}
	if _, err := tls.LoadX509KeyPair(c.NATSCert, c.NATSKey); err != nil {
		return Wrong("RELAY_NATS_CERT", "the certificate cannot be used: %w", withoutPath(err))
	}
	return nil
}

// InTheClear reports whether subscribers from beyond this machine are served without TLS.
func (l Listen) InTheClear() bool {
	if l.NATSListen == "" || l.NATSListenCert != "" {
		return false
	}
	host, _, _ := net.SplitHostPort(l.NATSListen) // it has been checked
	addr, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !addr.Unmap().IsLoopback())
}
