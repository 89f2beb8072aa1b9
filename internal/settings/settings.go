package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Serve has the settings of a relay that serves: flags with the names of variables, no file needed.
// A secret may also be given as a file's path in …_FILE. The tag pasted sets what a text may hold
// (see package pasted). Without it a text holds no blank and no quote.
type Serve struct {
	redacted
	Serving   `group:"Serving"`
	Log       `group:"Serving"`
	Vendor    `group:"Vendor"`
	Callbacks `group:"Callbacks"`
	Store     `group:"Storage"`
	Listen    `group:"Storage"`
	Keys      `group:"Storage"`
}

// Tool has the settings of a command that works on the store while no relay does.
type Tool struct {
	redacted
	Store `group:"Storage"`
	Log   `group:"Logging"`
}

// Serving sets where the relay is reached, and who administers it.
type Serving struct {
	HTTPAddr    string `name:"http-addr" env:"RELAY_HTTP_ADDR" default:":8080" help:"Address of the HTTP API."`
	MetricsAddr string `env:"RELAY_METRICS_ADDR" default:":9464" help:"Address of /metrics."`
	PublicURL   string `name:"public-url" env:"RELAY_PUBLIC_URL" help:"Where the HTTP API is reached from outside (in links and schema addresses)."`

	TrustedProxies []string `env:"RELAY_TRUSTED_PROXIES" help:"Networks of the proxies in front of the API, which are believed in X-Forwarded-For."`

	ConsentReturnOrigins []string `env:"RELAY_CONSENT_RETURN_ORIGINS" help:"Origins such as https://bms.example that the page after a consent may link to."`

	AdminToken      string `pasted:"secret" env:"RELAY_ADMIN_TOKEN" help:"Bearer token of the administrator, at least 16 characters; the log calls whoever uses it admin. Required, or RELAY_ADMIN_TOKENS."`
	AdminTokenFile  string `pasted:"secret" env:"RELAY_ADMIN_TOKEN_FILE" help:"File that holds it; read again when it changes."`
	AdminTokens     string `pasted:"document" env:"RELAY_ADMIN_TOKENS" help:"Bearer tokens of several administrators, beside RELAY_ADMIN_TOKEN: name:token,name:token. The log has their names."`
	AdminTokensFile string `pasted:"secret" env:"RELAY_ADMIN_TOKENS_FILE" help:"File that holds them, one on each line or by commas; read again when it changes."`

	MetricsToken     string `pasted:"secret" env:"RELAY_METRICS_TOKEN" help:"Bearer token that /metrics asks for, at least 16 characters; without one anybody who reaches it may read it."`
	MetricsTokenFile string `pasted:"secret" env:"RELAY_METRICS_TOKEN_FILE" help:"File that holds it."`

	ShutdownGrace Duration `env:"RELAY_SHUTDOWN_GRACE" default:"25s" help:"How long attempts under way may take to end after SIGTERM."`
}

// Log sets what is logged.
type Log struct {
	LogLevel  string `env:"RELAY_LOG_LEVEL" default:"info" help:"debug, info, warn or error."`
	LogFormat string `env:"RELAY_LOG_FORMAT" default:"json" help:"json or text."`
}

// Vendor sets how the vendor is reached, as whom, and how often.
type Vendor struct {
	AudatexBaseURL  string `name:"audatex-base-url" env:"RELAY_AUDATEX_BASE_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.BMSAPI" help:"The vendor's API."`
	AudatexAuthURL  string `name:"audatex-auth-url" env:"RELAY_AUDATEX_AUTH_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.Portal/OAuth20" help:"The vendor's consent page."`
	AudatexTokenURL string `name:"audatex-token-url" env:"RELAY_AUDATEX_TOKEN_URL" default:"https://audaconnect.ax-aee.co.uk/AudaAPI.Portal/OAuth20/token" help:"The vendor's token endpoint."`
	AudatexClientID string `name:"audatex-client-id" pasted:"secret" env:"RELAY_AUDATEX_CLIENT_ID" help:"OAuth client id given by the vendor. Required."`

	AudatexClientSecret     string `pasted:"secret" env:"RELAY_AUDATEX_CLIENT_SECRET" help:"OAuth client secret. Required."`
	AudatexClientSecretFile string `pasted:"secret" env:"RELAY_AUDATEX_CLIENT_SECRET_FILE" help:"File that holds it."`

	AudatexAuthStyle string   `env:"RELAY_AUDATEX_AUTH_STYLE" default:"form" help:"How client id and secret are sent: form or basic."`
	AudatexScopes    []string `env:"RELAY_AUDATEX_SCOPES" default:"BMS.Basic,BMS.PartsOrders" help:"Scopes asked for."`
	AudatexPKCE      string   `name:"audatex-pkce" env:"RELAY_AUDATEX_PKCE" default:"on" help:"Whether consents carry a PKCE challenge: on or off."`
	AudatexTopic     string   `env:"RELAY_AUDATEX_TOPIC" default:"PARTS.ORDER" help:"Topic of the vendor that is subscribed to. Everything below it comes as well, so bare PARTS is refused."`
	AudatexTimezone  string   `env:"RELAY_AUDATEX_TIMEZONE" default:"UTC" help:"Zone of the vendor's times that name none."`
	AudatexRate      int      `env:"RELAY_AUDATEX_RATE" default:"100" help:"Requests a minute to the vendor, for all connections and replicas. The vendor publishes no limit; agree on more with its service desk."`
	AudatexTimeout   Duration `env:"RELAY_AUDATEX_TIMEOUT" default:"30s" help:"How long one call to the vendor may take. After a replica dies, its successor waits up to twice this long before it polls."`
	PollInterval     Duration `env:"RELAY_POLL_INTERVAL" default:"5m" help:"Time between two polls of a connection."`
	PollSooner       Duration `env:"RELAY_POLL_SOONER" default:"1m" help:"Least time between two polls that come sooner than the interval says."`
	PollSoonerFor    Duration `env:"RELAY_POLL_SOONER_FOR" default:"10m" help:"How long polls come sooner after something came or a user consented; 0 is never."`
	NightlyReconcile string   `env:"RELAY_NIGHTLY_RECONCILE" default:"01:00-05:00" help:"When open orders are read again each night, in RELAY_AUDATEX_TIMEZONE, or 'off'."`
}

// Callbacks sets how callbacks are called.
type Callbacks struct {
	RetrySchedule      []Duration `env:"RELAY_RETRY_SCHEDULE" default:"5s,5m,30m,2h,5h,10h,14h,20h,24h" help:"Waits after the first, second, … failed attempt."`
	CallbackAllowCIDRs []string   `name:"callback-allow-cidrs" env:"RELAY_CALLBACK_ALLOW_CIDRS" help:"Private networks that callbacks may reach, also by http."`
	CallbackProxy      string     `env:"RELAY_CALLBACK_PROXY" help:"HTTP proxy for callbacks. HTTPS_PROXY is not used for them."`
	CallbackCAFile     string     `name:"callback-ca-file" pasted:"secret" env:"RELAY_CALLBACK_CA_FILE" help:"PEM file of authorities that receivers' certificates may be from, beside the system's; read again when it changes."`
}

// Store sets where everything lies: what every command that works on the store needs.
type Store struct {
	DataDir     string   `pasted:"secret" env:"RELAY_DATA_DIR" default:"data" help:"Files of the embedded NATS server."`
	StorageSync string   `env:"RELAY_STORAGE_SYNC" default:"1s" help:"How often the embedded store syncs the disk, or 'always' for every write."`
	Retention   Duration `env:"RELAY_RETENTION" default:"30d" help:"How long the logs are kept."`
	NATSURL     string   `name:"nats-url" env:"RELAY_NATS_URL" help:"Servers of an external NATS cluster in place of the embedded one; tls://host:4222 wants TLS."`
	NATSCreds   string   `name:"nats-creds" pasted:"secret" env:"RELAY_NATS_CREDS" help:"Credentials file for it."`
	NATSUser    string   `name:"nats-user" pasted:"secret" env:"RELAY_NATS_USER" help:"User for it, in place of a credentials file."`

	NATSPassword     string `name:"nats-password" pasted:"password" env:"RELAY_NATS_PASSWORD" help:"The user's password."`
	NATSPasswordFile string `name:"nats-password-file" pasted:"secret" env:"RELAY_NATS_PASSWORD_FILE" help:"File that holds it."`

	NATSCA         string `name:"nats-ca" pasted:"secret" env:"RELAY_NATS_CA" help:"PEM file of the authorities that vouch for its servers; the system's without."`
	NATSCert       string `name:"nats-cert" pasted:"secret" env:"RELAY_NATS_CERT" help:"PEM file of the relay's own certificate for it."`
	NATSKey        string `name:"nats-key" pasted:"secret" env:"RELAY_NATS_KEY" help:"PEM file of that certificate's key."`
	NATSPrefix     string `name:"nats-prefix" env:"RELAY_NATS_PREFIX" default:"relay" help:"First part of the names of all streams and buckets."`
	StreamReplicas int    `env:"RELAY_STREAM_REPLICAS" help:"Copies of every stream; 3 with an external cluster, else 1."`
}

// Listen sets where the embedded server takes subscribers.
type Listen struct {
	NATSListen     string `name:"nats-listen" env:"RELAY_NATS_LISTEN" help:"Address where the embedded server takes subscribers (API keys); none by default."`
	NATSListenCert string `name:"nats-listen-cert" pasted:"secret" env:"RELAY_NATS_LISTEN_CERT" help:"PEM file of the certificate that subscribers are served with; in the clear without."`
	NATSListenKey  string `name:"nats-listen-key" pasted:"secret" env:"RELAY_NATS_LISTEN_KEY" help:"PEM file of that certificate's key."`
}

// Keys open the secrets in the store.
type Keys struct {
	EncryptionKeys     string `pasted:"document" env:"RELAY_ENCRYPTION_KEYS" help:"Tink keyset (JSON) that encrypts secrets at rest, or several in a list: the first encrypts, all decrypt. Embedded: made on first start beside the data."`
	EncryptionKeysFile string `pasted:"secret" env:"RELAY_ENCRYPTION_KEYS_FILE" help:"File that holds it."`
}

// redacted keeps the secrets of what embeds it out of formatted text and of every log.
type redacted struct{}

func (redacted) String() string       { return "[settings]" }
func (redacted) GoString() string     { return "[settings]" }
func (redacted) LogValue() slog.Value { return slog.StringValue("[settings]") }

// Duration is a Go duration that also takes days: 30d.
type Duration time.Duration

// D returns it as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes the duration as Go does.
func (d Duration) String() string { return time.Duration(d).String() }

// UnmarshalText reads a duration for kong.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text))
	*d = Duration(v)
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
