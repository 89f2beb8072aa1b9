package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/pasted"
	"github.com/audatex-relay/relay/internal/reconciler"
)

// settings of the service: flags with environment names, no file needed. Secrets may also be given as a file's path
// in …_FILE.
type settings struct {
	storage

	HTTPAddr    string `name:"http-addr" env:"RELAY_HTTP_ADDR" default:":8080" help:"Address of the HTTP API." group:"Serving"`
	MetricsAddr string `env:"RELAY_METRICS_ADDR" default:":9464" help:"Address of /metrics." group:"Serving"`
	PublicURL   string `name:"public-url" env:"RELAY_PUBLIC_URL" help:"Where the HTTP API is reached from outside (in links and schema addresses)." group:"Serving"`

	TrustedProxies []string `env:"RELAY_TRUSTED_PROXIES" help:"Networks of the proxies in front of the API, which are believed in X-Forwarded-For." group:"Serving"`

	ConsentReturnOrigins []string `env:"RELAY_CONSENT_RETURN_ORIGINS" help:"Origins such as https://bms.example that the page after a consent may link to." group:"Serving"`

	AdminToken      string `env:"RELAY_ADMIN_TOKEN" help:"Bearer token of the administrator, at least 16 characters; the log calls whoever uses it admin. Required, or RELAY_ADMIN_TOKENS." group:"Serving"`
	AdminTokenFile  string `env:"RELAY_ADMIN_TOKEN_FILE" help:"File that holds it; read again when it changes." group:"Serving"`
	AdminTokens     string `env:"RELAY_ADMIN_TOKENS" help:"Bearer tokens of several administrators, beside RELAY_ADMIN_TOKEN: name:token,name:token. The log has their names." group:"Serving"`
	AdminTokensFile string `env:"RELAY_ADMIN_TOKENS_FILE" help:"File that holds them, one on each line or by commas; read again when it changes." group:"Serving"`

	ShutdownGrace duration `env:"RELAY_SHUTDOWN_GRACE" default:"25s" help:"How long attempts under way may take to end after SIGTERM." group:"Serving"`

	AudatexBaseURL  string `name:"audatex-base-url" env:"RELAY_AUDATEX_BASE_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.BMSAPI" help:"The vendor's API." group:"Vendor"`
	AudatexAuthURL  string `name:"audatex-auth-url" env:"RELAY_AUDATEX_AUTH_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.Portal/OAuth20" help:"The vendor's consent page." group:"Vendor"`
	AudatexTokenURL string `name:"audatex-token-url" env:"RELAY_AUDATEX_TOKEN_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.Portal/OAuth20/token" help:"The vendor's token endpoint." group:"Vendor"`
	AudatexClientID string `name:"audatex-client-id" env:"RELAY_AUDATEX_CLIENT_ID" help:"OAuth client id given by the vendor. Required." group:"Vendor"`

	AudatexClientSecret     string `env:"RELAY_AUDATEX_CLIENT_SECRET" help:"OAuth client secret. Required." group:"Vendor"`
	AudatexClientSecretFile string `env:"RELAY_AUDATEX_CLIENT_SECRET_FILE" help:"File that holds it." group:"Vendor"`

	AudatexAuthStyle string   `env:"RELAY_AUDATEX_AUTH_STYLE" default:"form" help:"How client id and secret are sent: form or basic." group:"Vendor"`
	AudatexScopes    []string `env:"RELAY_AUDATEX_SCOPES" default:"BMS.Basic,BMS.PartsOrders" help:"Scopes asked for." group:"Vendor"`
	AudatexPKCE      string   `name:"audatex-pkce" env:"RELAY_AUDATEX_PKCE" default:"on" help:"Whether consents carry a PKCE challenge: on or off." group:"Vendor"`
	AudatexTopic     string   `env:"RELAY_AUDATEX_TOPIC" default:"PARTS.ORDER" help:"Topic of the vendor that is subscribed to. Everything below it comes as well, so bare PARTS is refused." group:"Vendor"`
	AudatexTimezone  string   `env:"RELAY_AUDATEX_TIMEZONE" default:"UTC" help:"Zone of the vendor's times that name none." group:"Vendor"`
	AudatexRate      int      `env:"RELAY_AUDATEX_RATE" default:"100" help:"Requests a minute to the vendor, for all connections and replicas. The vendor publishes no limit; agree on more with its service desk." group:"Vendor"`
	AudatexTimeout   duration `env:"RELAY_AUDATEX_TIMEOUT" default:"30s" help:"How long one call to the vendor may take. A replica that takes a connection over from one that died waits for twice that." group:"Vendor"`
	PollInterval     duration `env:"RELAY_POLL_INTERVAL" default:"5m" help:"Time between two polls of a connection." group:"Vendor"`
	PollSooner       duration `env:"RELAY_POLL_SOONER" default:"1m" help:"Least time between two polls that come sooner than the interval says." group:"Vendor"`
	PollSoonerFor    duration `env:"RELAY_POLL_SOONER_FOR" default:"10m" help:"How long polls come sooner after something came or a user consented; 0 is never." group:"Vendor"`
	NightlyReconcile string   `env:"RELAY_NIGHTLY_RECONCILE" default:"01:00-05:00" help:"When open orders are read again each night, in RELAY_AUDATEX_TIMEZONE, or 'off'." group:"Vendor"`

	RetrySchedule      []duration `env:"RELAY_RETRY_SCHEDULE" default:"5s,5m,30m,2h,5h,10h,14h,20h,24h" help:"Waits after the first, second, … failed attempt." group:"Callbacks"`
	CallbackAllowCIDRs []string   `name:"callback-allow-cidrs" env:"RELAY_CALLBACK_ALLOW_CIDRS" help:"Private networks that callbacks may reach, also by http." group:"Callbacks"`
	CallbackProxy      string     `env:"RELAY_CALLBACK_PROXY" help:"HTTP proxy for callbacks. HTTPS_PROXY is not used for them." group:"Callbacks"`
}

// storage says where everything lies and what opens it: what every command that works on the store needs.
type storage struct {
	DataDir     string   `env:"RELAY_DATA_DIR" default:"data" help:"Files of the embedded NATS server." group:"Storage"`
	StorageSync string   `env:"RELAY_STORAGE_SYNC" default:"1s" help:"How often the embedded store syncs the disk, or 'always' for every write." group:"Storage"`
	Retention   duration `env:"RELAY_RETENTION" default:"30d" help:"How long the logs are kept." group:"Storage"`
	NATSURL     string   `name:"nats-url" env:"RELAY_NATS_URL" help:"Servers of an external NATS cluster in place of the embedded one; tls://host:4222 wants TLS." group:"Storage"`
	NATSCreds   string   `name:"nats-creds" env:"RELAY_NATS_CREDS" help:"Credentials file for it." group:"Storage"`
	NATSUser    string   `name:"nats-user" env:"RELAY_NATS_USER" help:"User for it, in place of a credentials file." group:"Storage"`

	NATSPassword     string `name:"nats-password" env:"RELAY_NATS_PASSWORD" help:"The user's password." group:"Storage"`
	NATSPasswordFile string `name:"nats-password-file" env:"RELAY_NATS_PASSWORD_FILE" help:"File that holds it." group:"Storage"`

	NATSCA         string `name:"nats-ca" env:"RELAY_NATS_CA" help:"PEM file of the authorities that vouch for its servers; the system's without." group:"Storage"`
	NATSCert       string `name:"nats-cert" env:"RELAY_NATS_CERT" help:"PEM file of the relay's own certificate for it." group:"Storage"`
	NATSKey        string `name:"nats-key" env:"RELAY_NATS_KEY" help:"PEM file of that certificate's key." group:"Storage"`
	NATSPrefix     string `name:"nats-prefix" env:"RELAY_NATS_PREFIX" default:"relay" help:"First part of the names of all streams and buckets." group:"Storage"`
	NATSListen     string `name:"nats-listen" env:"RELAY_NATS_LISTEN" help:"Address where the embedded server takes subscribers (API keys); none by default." group:"Storage"`
	NATSListenCert string `name:"nats-listen-cert" env:"RELAY_NATS_LISTEN_CERT" help:"PEM file of the certificate that subscribers are served with; in the clear without." group:"Storage"`
	NATSListenKey  string `name:"nats-listen-key" env:"RELAY_NATS_LISTEN_KEY" help:"PEM file of that certificate's key." group:"Storage"`
	StreamReplicas int    `env:"RELAY_STREAM_REPLICAS" help:"Copies of every stream; 3 with an external cluster, else 1." group:"Storage"`

	EncryptionKeys     string `env:"RELAY_ENCRYPTION_KEYS" help:"Tink keyset (JSON) that encrypts secrets at rest, or several in a list: the first encrypts, all decrypt. Embedded: made on first start beside the data." group:"Storage"`
	EncryptionKeysFile string `env:"RELAY_ENCRYPTION_KEYS_FILE" help:"File that holds it." group:"Storage"`

	LogLevel  string `env:"RELAY_LOG_LEVEL" default:"info" help:"debug, info, warn or error." group:"Serving"`
	LogFormat string `env:"RELAY_LOG_FORMAT" default:"json" help:"json or text." group:"Serving"`
}

// String keeps the secrets out of formatted text.
func (settings) String() string { return "[settings]" }

// GoString keeps the secrets out of %#v.
func (settings) GoString() string { return "[settings]" }

// LogValue keeps the secrets out of every log.
func (settings) LogValue() slog.Value { return slog.StringValue("[settings]") }

// config is what the settings come to once they are checked.
type config struct {
	settings
	admins     []access.Admin
	level      slog.Level
	syncEvery  time.Duration
	syncAlways bool
	location   *time.Location
	schedule   []time.Duration
	night      reconciler.Night
	allow      []netip.Prefix
	proxies    ingress.Proxies
	proxy      *url.URL

	trimmed []string // settings that something was taken away from
}

// check reads the secrets' files and answers every setting in the form the parts take, or the first one that is wrong.
func (s settings) check() (config, error) {
	c := config{settings: s}
	err := c.clean(c.settings.texts())
	if err != nil {
		return config{}, err
	}
	if c.admins, err = c.readAdmins(); err != nil {
		return config{}, err
	}
	for _, secret := range []struct {
		name       string
		value      *string
		file       string
		kind       pasted.Kind
		needed     bool
		whatToDoIt string
	}{
		{"RELAY_AUDATEX_CLIENT_SECRET", &c.AudatexClientSecret, c.AudatexClientSecretFile, pasted.Secret, true, "the vendor gives it together with the client id"},
		{"RELAY_ENCRYPTION_KEYS", &c.EncryptionKeys, c.EncryptionKeysFile, pasted.Document, c.NATSURL != "", "make it once with `relay keys` and keep it apart from the data"},
		{"RELAY_NATS_PASSWORD", &c.NATSPassword, c.NATSPasswordFile, pasted.Password, c.NATSUser != "", "RELAY_NATS_USER logs in with it"},
	} {
		if err := c.readSecret(secret.name, secret.value, secret.file, secret.kind); err != nil {
			return config{}, err
		}
		if secret.needed && *secret.value == "" {
			return config{}, wrong(secret.name, "is required: %s (or name a file in %s_FILE)", secret.whatToDoIt, secret.name)
		}
	}
	if c.AudatexClientID == "" {
		return config{}, wrong("RELAY_AUDATEX_CLIENT_ID", "is required: the vendor gives it to every integrator")
	}
	for _, check := range []func() error{c.checkAddresses, c.checkURLs, c.checkNATS, c.checkStorage, c.checkVendor, c.checkNight, c.checkCallbacks, c.checkLogging} {
		if err := check(); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

func (c *config) checkAddresses() error {
	for _, a := range []struct{ name, value string }{
		{"RELAY_HTTP_ADDR", c.HTTPAddr}, {"RELAY_METRICS_ADDR", c.MetricsAddr}, {"RELAY_NATS_LISTEN", c.NATSListen},
	} {
		if a.value == "" && a.name == "RELAY_NATS_LISTEN" {
			continue
		}
		if err := checkListener(a.value); err != nil {
			return wrong(a.name, "%w", err)
		}
	}
	for _, text := range c.TrustedProxies {
		network, err := parseNetwork(text)
		if err != nil {
			return wrong("RELAY_TRUSTED_PROXIES", "%w", err)
		}
		if network.Bits() == 0 {
			return wrong("RELAY_TRUSTED_PROXIES", "%s is every address: then anybody may say that he is somebody else. Name the proxies' own networks", network)
		}
		c.proxies = append(c.proxies, network)
	}
	if c.NATSListen != "" && c.NATSURL != "" {
		return wrong("RELAY_NATS_LISTEN", "is for the embedded server; with RELAY_NATS_URL subscribers go to the external cluster")
	}
	if (c.NATSListenCert == "") != (c.NATSListenKey == "") {
		return wrong("RELAY_NATS_LISTEN_CERT", "wants RELAY_NATS_LISTEN_KEY beside it, and the other way round")
	}
	if c.NATSListenCert != "" && c.NATSListen == "" {
		return wrong("RELAY_NATS_LISTEN_CERT", "is for subscribers, and there are none without RELAY_NATS_LISTEN")
	}
	return nil
}

func (c *config) checkStorage() error {
	if c.StorageSync == "always" {
		c.syncAlways = true
	} else {
		d, err := parseDuration(c.StorageSync)
		if err != nil || d <= 0 {
			return wrong("RELAY_STORAGE_SYNC", "%s is neither a duration above zero nor 'always'", shownWord(c.StorageSync))
		}
		c.syncEvery = d
	}
	if c.Retention.d() < time.Hour {
		return wrong("RELAY_RETENTION", "%s is too short: at least 1h", c.Retention)
	}
	if c.StreamReplicas == 0 {
		c.StreamReplicas = 1
		if c.NATSURL != "" {
			c.StreamReplicas = 3
		}
	}
	if c.StreamReplicas < 1 || c.StreamReplicas > 5 {
		return wrong("RELAY_STREAM_REPLICAS", "%d is not between 1 and 5", c.StreamReplicas)
	}
	if c.StreamReplicas > 1 && c.NATSURL == "" {
		return wrong("RELAY_STREAM_REPLICAS", "%d copies want an external cluster (RELAY_NATS_URL); the embedded store keeps one", c.StreamReplicas)
	}
	if c.NATSPrefix == "" || strings.ContainsFunc(c.NATSPrefix, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') }) {
		return wrong("RELAY_NATS_PREFIX", "%s must be letters a-z, digits and -", shownWord(c.NATSPrefix))
	}
	if c.NATSURL == "" && c.DataDir == "" {
		return wrong("RELAY_DATA_DIR", "is empty: name a directory for the embedded store, or RELAY_NATS_URL")
	}
	return nil
}

func (c *config) checkVendor() error {
	if c.AudatexAuthStyle != "form" && c.AudatexAuthStyle != "basic" {
		return wrong("RELAY_AUDATEX_AUTH_STYLE", "%s is neither form nor basic", shownWord(c.AudatexAuthStyle))
	}
	if c.AudatexPKCE != "on" && c.AudatexPKCE != "off" {
		return wrong("RELAY_AUDATEX_PKCE", "%s is neither on nor off", shownWord(c.AudatexPKCE))
	}
	if err := checkTopic(c.AudatexTopic); err != nil {
		return wrong("RELAY_AUDATEX_TOPIC", "%w", err)
	}
	location, err := time.LoadLocation(c.AudatexTimezone)
	if err != nil || c.AudatexTimezone == "Local" {
		return wrong("RELAY_AUDATEX_TIMEZONE", "%s is no time zone such as UTC or Europe/London", shownWord(c.AudatexTimezone))
	}
	c.location = location
	if c.AudatexRate < 1 {
		return wrong("RELAY_AUDATEX_RATE", "%d is not a number of requests a minute above zero", c.AudatexRate)
	}
	if c.AudatexTimeout.d() < 100*time.Millisecond || c.AudatexTimeout.d() > 5*time.Minute {
		return wrong("RELAY_AUDATEX_TIMEOUT", "%s is not between 100ms and 5m", c.AudatexTimeout)
	}
	if c.PollInterval.d() < 100*time.Millisecond || c.PollInterval.d() > 24*time.Hour {
		return wrong("RELAY_POLL_INTERVAL", "%s is not between 100ms and 24h", c.PollInterval)
	}
	if c.PollSooner.d() < 100*time.Millisecond || c.PollSooner.d() > 24*time.Hour {
		return wrong("RELAY_POLL_SOONER", "%s is not between 100ms and 24h", c.PollSooner)
	}
	if c.PollSoonerFor.d() < 0 || c.PollSoonerFor.d() > 24*time.Hour {
		return wrong("RELAY_POLL_SOONER_FOR", "%s is not between 0 and 24h", c.PollSoonerFor)
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
	case len(topic) > 128 || slices.Contains(segments, "") || slices.ContainsFunc(segments, func(s string) bool { return strings.ContainsFunc(s, foreign) }):
		return fmt.Errorf("%s is no topic such as PARTS.ORDER", shownWord(topic))
	case len(segments) == 1:
		return fmt.Errorf("%s is a whole family of topics, and whatever the vendor adds to it would come as well: name one, such as PARTS.ORDER", shownWord(topic))
	}
	return nil
}

func (c *config) checkCallbacks() error {
	if len(c.RetrySchedule) == 0 || len(c.RetrySchedule) > 50 {
		return wrong("RELAY_RETRY_SCHEDULE", "has %d waits; between 1 and 50 are needed", len(c.RetrySchedule))
	}
	for _, d := range c.RetrySchedule {
		if d.d() <= 0 || d.d() > 7*24*time.Hour {
			return wrong("RELAY_RETRY_SCHEDULE", "%s is not a wait above zero and up to 7d", d)
		}
		c.schedule = append(c.schedule, d.d())
	}
	for _, cidr := range c.CallbackAllowCIDRs {
		p, err := netip.ParsePrefix(strings.TrimSpace(cidr))
		if err != nil {
			return wrong("RELAY_CALLBACK_ALLOW_CIDRS", "%s is not a network such as 10.0.0.0/8", shown(cidr))
		}
		c.allow = append(c.allow, p.Masked())
	}
	if c.ShutdownGrace.d() < 0 || c.ShutdownGrace.d() > time.Hour {
		return wrong("RELAY_SHUTDOWN_GRACE", "%s is not between 0s and 1h", c.ShutdownGrace)
	}
	return nil
}

func (c *config) checkLogging() error {
	if err := c.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return wrong("RELAY_LOG_LEVEL", "%s is none of debug, info, warn, error", shownWord(c.LogLevel))
	}
	if c.LogFormat != "json" && c.LogFormat != "text" {
		return wrong("RELAY_LOG_FORMAT", "%s is neither json nor text", shownWord(c.LogFormat))
	}
	return nil
}

// encryptionKeys returns the keysets that are set, if any are, one after the other. Base64 of each is taken as well: JSON is awkward in some
// environments.
func (c config) encryptionKeys() ([]byte, error) {
	keys := strings.TrimSpace(c.EncryptionKeys)
	if keys == "" || keys[0] == '{' || keys[0] == '[' {
		return []byte(keys), nil
	}
	var all []byte
	for _, one := range strings.FieldsFunc(keys, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' }) {
		decoded, err := base64.StdEncoding.DecodeString(one)
		if err != nil {
			return nil, wrong("RELAY_ENCRYPTION_KEYS", "is neither a Tink keyset in JSON nor base64 of one (make one with `relay keys`), nor a list of them")
		}
		all = append(append(all, decoded...), '\n')
	}
	return all, nil
}

// duration is a Go duration that also takes days: 30d.
type duration time.Duration

func (d duration) d() time.Duration { return time.Duration(d) }

// String writes the duration as Go does.
func (d duration) String() string { return time.Duration(d).String() }

// UnmarshalText reads a duration for kong.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text))
	*d = duration(v)
	return err
}

func parseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number of days", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New(strings.TrimPrefix(err.Error(), "time: "))
	}
	return v, nil
}
