package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/pasted"
)

// Config is the checked settings of a relay that serves: the texts are clean, the secrets are read
// from their files.
type Config struct {
	redacted
	StoreConfig
	Serving
	Vendor
	Callbacks
	Listen

	Keyset   []byte // none: it lies beside the data, or is made there
	Admins   []access.Admin
	Location *time.Location
	Schedule []time.Duration
	Night    Night
	Allow    []netip.Prefix
	Proxies  ingress.Proxies
	Proxy    *url.URL
	Roots    *x509.CertPool // authorities of receivers' certificates; nil: the system's

	Rereads *Rereads // has files read again at once; nil: only every few seconds
}

// Night is the part of each day in which open orders are read again, from a time of day on. The zero value means never.
type Night struct {
	From     time.Duration // after midnight
	Length   time.Duration
	Location *time.Location
}

// StoreConfig is the checked settings of the store and of the log.
type StoreConfig struct {
	redacted
	Store
	Log

	Level      slog.Level
	SyncEvery  time.Duration
	SyncAlways bool

	trimmed []string // settings from which something was removed
}

// Check reads the secrets' files and returns every setting in the form that the parts take, or an
// error about the first one that is wrong.
func (s Serve) Check() (Config, error) {
	var t texts
	if err := t.cleanAll(&s); err != nil {
		return Config{}, err
	}
	admins, err := s.readAdmins(&t)
	if err != nil {
		return Config{}, err
	}
	if err := s.readMetricsToken(&t, admins); err != nil {
		return Config{}, err
	}
	if err := t.required("RELAY_AUDATEX_CLIENT_SECRET", &s.AudatexClientSecret, s.AudatexClientSecretFile,
		pasted.Secret,
		"the vendor gives it together with the client id"); err != nil {
		return Config{}, err
	}
	keyset, err := s.Keys.read(&t)
	switch {
	case err != nil:
		return Config{}, err
	case len(keyset) == 0 && s.NATSURL != "":
		return Config{}, missing("RELAY_ENCRYPTION_KEYS",
			"make it once with `relay keys` and keep it apart from the data")
	}
	stored, err := s.Store.check(s.Log, &t)
	if err != nil {
		return Config{}, err
	}
	c := Config{
		StoreConfig: stored, Serving: s.Serving, Vendor: s.Vendor, Callbacks: s.Callbacks, Listen: s.Listen,
		Keyset: keyset, Admins: admins,
	}
	for _, check := range []func() error{c.checkServing, c.checkListen, c.checkURLs, c.checkVendor,
		c.checkNight, c.checkCallbacks} {
		if err := check(); err != nil {
			return Config{}, err
		}
	}
	return c, nil
}

// Check is Serve's for a command that serves nothing. Keys, if it needs any, are read into its
// keyset.
func (t Tool) Check() (StoreConfig, error) {
	var read texts
	if err := read.cleanAll(&t); err != nil {
		return StoreConfig{}, err
	}
	return t.Store.check(t.Log, &read)
}

// Read returns the keysets that are set, none if none are.
func (k Keys) Read() ([]byte, error) {
	var t texts
	if err := t.cleanAll(&k); err != nil {
		return nil, err
	}
	return k.read(&t)
}

// Warn logs what was changed in the settings.
func (c StoreConfig) Warn(log *slog.Logger) {
	for _, name := range c.trimmed {
		log.Warn("white space or a byte order mark around a setting was taken away; give it without", "setting", name)
	}
}

func (s Store) check(log Log, t *texts) (StoreConfig, error) {
	if err := t.secret("RELAY_NATS_PASSWORD", &s.NATSPassword, s.NATSPasswordFile, pasted.Password); err != nil {
		return StoreConfig{}, err
	}
	if s.NATSUser != "" && s.NATSPassword == "" {
		return StoreConfig{}, missing("RELAY_NATS_PASSWORD", "RELAY_NATS_USER logs in with it")
	}
	c := StoreConfig{Store: s, Log: log, trimmed: t.trimmed}
	for _, check := range []func() error{c.checkNATS, c.checkStorage, c.checkLogging} {
		if err := check(); err != nil {
			return StoreConfig{}, err
		}
	}
	return c, nil
}

func (c *StoreConfig) checkStorage() error {
	if c.SyncAlways = c.StorageSync == "always"; !c.SyncAlways {
		d, err := parseDuration(c.StorageSync)
		if err != nil || d <= 0 {
			return Wrong("RELAY_STORAGE_SYNC", "%s is neither a duration above zero nor 'always'",
				shownWord(c.StorageSync))
		}
		c.SyncEvery = d
	}
	if c.Retention.D() < time.Hour {
		return Wrong("RELAY_RETENTION", "%s is too short: at least 1h", c.Retention)
	}
	if c.StreamReplicas == 0 {
		c.StreamReplicas = 1
		if c.NATSURL != "" {
			c.StreamReplicas = 3
		}
	}
	if c.StreamReplicas < 1 || c.StreamReplicas > 5 {
		return Wrong("RELAY_STREAM_REPLICAS", "%d is not between 1 and 5", c.StreamReplicas)
	}
	if c.StreamReplicas > 1 && c.NATSURL == "" {
		return Wrong("RELAY_STREAM_REPLICAS",
			"%d copies want an external cluster (RELAY_NATS_URL); the embedded store keeps one", c.StreamReplicas)
	}
	if c.NATSPrefix == "" || strings.ContainsFunc(c.NATSPrefix, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}) {
		return Wrong("RELAY_NATS_PREFIX", "%s must be letters a-z, digits and -", shownWord(c.NATSPrefix))
	}
	if c.NATSURL == "" && c.DataDir == "" {
		return Wrong("RELAY_DATA_DIR", "is empty: name a directory for the embedded store, or RELAY_NATS_URL")
	}
	return nil
}

func (c *StoreConfig) checkLogging() error {
	if err := c.Level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return Wrong("RELAY_LOG_LEVEL", "%s is none of debug, info, warn, error", shownWord(c.LogLevel))
	}
	return oneOf("RELAY_LOG_FORMAT", c.LogFormat, "json", "text")
}

func (c *Config) checkServing() error {
	for _, a := range []struct{ name, value string }{{"RELAY_HTTP_ADDR", c.HTTPAddr},
		{"RELAY_METRICS_ADDR", c.MetricsAddr}} {
		if err := CheckListener(a.value); err != nil {
			return Wrong(a.name, "%w", err)
		}
	}
	for _, text := range c.TrustedProxies {
		network, err := parseNetwork(text)
		if err != nil {
			return Wrong("RELAY_TRUSTED_PROXIES", "%w", err)
		}
		if network.Bits() == 0 {
			return Wrong("RELAY_TRUSTED_PROXIES", "%s is every address: then anybody may say that he is somebody "+
				"else. Name the proxies' own networks", network)
		}
		c.Proxies = append(c.Proxies, network)
	}
	return within("RELAY_SHUTDOWN_GRACE", c.ShutdownGrace, "0s", "1h")
}

func (c *Config) checkListen() error {
	if c.NATSListen != "" {
		if err := CheckListener(c.NATSListen); err != nil {
			return Wrong("RELAY_NATS_LISTEN", "%w", err)
		}
		if c.NATSURL != "" {
			return Wrong("RELAY_NATS_LISTEN",
				"is for the embedded server; with RELAY_NATS_URL subscribers go to the external cluster")
		}
	}
	if (c.NATSListenCert == "") != (c.NATSListenKey == "") {
		return Wrong("RELAY_NATS_LISTEN_CERT", "wants RELAY_NATS_LISTEN_KEY beside it, and the other way round")
	}
	if c.NATSListenCert != "" && c.NATSListen == "" {
		return Wrong("RELAY_NATS_LISTEN_CERT", "is for subscribers, and there are none without RELAY_NATS_LISTEN")
	}
	return nil
}

func (c *Config) checkVendor() (err error) {
	if c.AudatexClientID == "" {
		return Wrong("RELAY_AUDATEX_CLIENT_ID", "is required: the vendor gives it to every integrator")
	}
	if err := checkTopic(c.AudatexTopic); err != nil {
		return Wrong("RELAY_AUDATEX_TOPIC", "%w", err)
	}
	if c.Location, err = time.LoadLocation(c.AudatexTimezone); err != nil || c.AudatexTimezone == "Local" {
		return Wrong("RELAY_AUDATEX_TIMEZONE", "%s is no time zone such as UTC or Europe/London",
			shownWord(c.AudatexTimezone))
	}
	if c.AudatexRate < 1 {
		return Wrong("RELAY_AUDATEX_RATE", "%d is not a number of requests a minute above zero", c.AudatexRate)
	}
	for _, err := range []error{
		oneOf("RELAY_AUDATEX_AUTH_STYLE", c.AudatexAuthStyle, "form", "basic"),
		oneOf("RELAY_AUDATEX_PKCE", c.AudatexPKCE, "on", "off"),
		within("RELAY_AUDATEX_TIMEOUT", c.AudatexTimeout, "100ms", "5m"),
		within("RELAY_POLL_INTERVAL", c.PollInterval, "100ms", "24h"),
		within("RELAY_POLL_SOONER", c.PollSooner, "100ms", "24h"),
		within("RELAY_POLL_SOONER_FOR", c.PollSoonerFor, "0", "24h"),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTopic refuses a topic that would bring more than orders, and what cannot be one.
func checkTopic(topic string) error {
	segments := strings.Split(topic, ".")
	foreign := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}
	switch {
	case topic == "":
		return errors.New("is empty: PARTS.ORDER is the topic of parts orders")
	case len(topic) > 128 || slices.Contains(segments, "") || slices.ContainsFunc(segments, func(s string) bool {
		return strings.ContainsFunc(s, foreign)
	}):
		return fmt.Errorf("%s is no topic such as PARTS.ORDER", shownWord(topic))
	case len(segments) == 1:
		return fmt.Errorf("%s is a whole family of topics, and whatever the vendor adds to it would come as well: "+
			"name one, such as PARTS.ORDER", shownWord(topic))
	}
	return nil
}

// off turns something off that is on without it.
const off = "off"

// checkNight reads when open orders are read again each night: two times of day in the vendor's
// zone.
func (c *Config) checkNight() error {
	if c.NightlyReconcile == off || c.NightlyReconcile == "" {
		return nil
	}
	from, to, isSpan := strings.Cut(c.NightlyReconcile, "-")
	begin, errBegin := time.Parse("15:04", strings.TrimSpace(from))
	end, errEnd := time.Parse("15:04", strings.TrimSpace(to))
	if !isSpan || errBegin != nil || errEnd != nil {
		return Wrong("RELAY_NIGHTLY_RECONCILE", "%s is neither two times of day such as 01:00-05:00 nor '%s'",
			shownWord(c.NightlyReconcile), off)
	}
	midnight := time.Date(begin.Year(), begin.Month(), begin.Day(), 0, 0, 0, 0, begin.Location())
	c.Night = Night{From: begin.Sub(midnight), Length: end.Sub(begin), Location: c.Location}
	if c.Night.Length <= 0 { // past midnight
		c.Night.Length += 24 * time.Hour
	}
	return nil
}

func (c *Config) checkCallbacks() error {
	if len(c.RetrySchedule) == 0 || len(c.RetrySchedule) > 50 {
		return Wrong("RELAY_RETRY_SCHEDULE", "has %d waits; between 1 and 50 are needed", len(c.RetrySchedule))
	}
	for _, d := range c.RetrySchedule {
		if d.D() <= 0 || d.D() > 7*24*time.Hour {
			return Wrong("RELAY_RETRY_SCHEDULE", "%s is not a wait above zero and up to 7d", d)
		}
		c.Schedule = append(c.Schedule, d.D())
	}
	for _, cidr := range c.CallbackAllowCIDRs {
		p, err := netip.ParsePrefix(strings.TrimSpace(cidr))
		if err != nil {
			return Wrong("RELAY_CALLBACK_ALLOW_CIDRS", "%s is not a network such as 10.0.0.0/8", shown(cidr))
		}
		c.Allow = append(c.Allow, p.Masked())
	}
	var err error
	c.Roots, err = c.ReadRoots()
	return err
}

// oneOf refuses a word that is neither of two.
func oneOf(setting, value, one, other string) error {
	if value != one && value != other {
		return Wrong(setting, "%s is neither %s nor %s", shownWord(value), one, other)
	}
	return nil
}

// within refuses a duration outside bounds, which are written as the error shows them.
func within(setting string, value Duration, least, most string) error {
	from, _ := time.ParseDuration(least)
	to, _ := time.ParseDuration(most)
	if value.D() < from || value.D() > to {
		return Wrong(setting, "%s is not between %s and %s", value, least, most)
	}
	return nil
}
