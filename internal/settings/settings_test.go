package settings

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/audatex-relay/relay/internal/store"
)

const (
	testAdminToken   = "an-admin-token-for-tests"
	testClientSecret = "a-client-secret-for-tests"
)

// given returns the settings as the command line gives them, the required ones included.
func given(t *testing.T, flags ...string) Serve {
	t.Helper()
	var s Serve
	parser, err := kong.New(&s, kong.Writers(io.Discard, io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	required := []string{"--admin-token=" + testAdminToken, "--audatex-client-id=id",
		"--audatex-client-secret=" + testClientSecret}
	if _, err := parser.Parse(append(required, flags...)); err != nil {
		t.Fatalf("parse %q: %v", flags, err)
	}
	return s
}

func TestDefaultsAreThoseOfTheDesign(t *testing.T) {
	t.Parallel()
	c, err := given(t).Check()
	if err != nil {
		t.Fatal(err)
	}
	hours := func(n int) time.Duration { return time.Duration(n) * time.Hour }
	schedule := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, hours(2), hours(5), hours(10),
		hours(14), hours(20), hours(24)}
	if !slices.Equal(c.Schedule, schedule) {
		t.Errorf("retry schedule %v, want %v", c.Schedule, schedule)
	}
	for _, d := range []struct {
		name      string
		got, want any
	}{
		{"retention", c.Retention.D(), hours(30 * 24)},
		{"poll interval", c.PollInterval.D(), 5 * time.Minute},
		{"rate", c.AudatexRate, 100},
		{"sync", c.SyncEvery, time.Second},
		{"sync always", c.SyncAlways, false},
		{"replicas", c.StreamReplicas, 1},
		{"grace", c.ShutdownGrace.D(), 25 * time.Second},
		{"level", c.Level, slog.LevelInfo},
		{"zone", c.Location.String(), "UTC"},
		{"networks allowed", len(c.Allow), 0},
		{"scopes", strings.Join(c.AudatexScopes, " "), "BMS.Basic BMS.PartsOrders"},
	} {
		if d.got != d.want {
			t.Errorf("%s is %v, want %v", d.name, d.got, d.want)
		}
	}
}

func TestEveryWrongSettingIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag    string
		setting string
	}{
		{"--admin-token=short", "RELAY_ADMIN_TOKEN"},
		{"--admin-token=two lines of sixteen\nor more", "RELAY_ADMIN_TOKEN"},
		{"--admin-token=                    ", "RELAY_ADMIN_TOKEN"},
		{"--admin-token=schlüssel-schlüssel", "RELAY_ADMIN_TOKEN"},
		{"--admin-tokens=ops", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=a-token-without-a-name", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=Ops:0123456789abcdef", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=ops:short", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=ops:\"0123456789abcdef\"", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=ops:0123456789abcdef,ops:fedcba9876543210", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=ops:0123456789abcdef,night:0123456789abcdef", "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=ops:" + testAdminToken, "RELAY_ADMIN_TOKENS"},
		{"--admin-tokens=admin:0123456789abcdef", "RELAY_ADMIN_TOKENS"},
		{"--audatex-client-id=", "RELAY_AUDATEX_CLIENT_ID"},
		{"--audatex-client-secret=", "RELAY_AUDATEX_CLIENT_SECRET"},
		{"--http-addr=8080", "RELAY_HTTP_ADDR"},
		{"--http-addr=", "RELAY_HTTP_ADDR"},
		{"--metrics-addr=:http", "RELAY_METRICS_ADDR"},
		{"--nats-listen=:70000", "RELAY_NATS_LISTEN"},
		{"--trusted-proxies=10.0.0.0/33", "RELAY_TRUSTED_PROXIES"},
		{"--trusted-proxies=proxy.example.com", "RELAY_TRUSTED_PROXIES"},
		{"--trusted-proxies=10.0.0.0/8,,192.0.2.1", "RELAY_TRUSTED_PROXIES"},
		{"--trusted-proxies=0.0.0.0/0", "RELAY_TRUSTED_PROXIES"},
		{"--trusted-proxies=::/0", "RELAY_TRUSTED_PROXIES"},
		{"--trusted-proxies=::ffff:0:0/90", "RELAY_TRUSTED_PROXIES"},
		{"--public-url=relay.example.com", "RELAY_PUBLIC_URL"},
		{"--public-url=https://relay.example.com/?a=b", "RELAY_PUBLIC_URL"},
		{"--public-url=https://relay.example.com/#a", "RELAY_PUBLIC_URL"},
		{"--public-url=https://user:hush@relay.example.com", "RELAY_PUBLIC_URL"},
		{"--audatex-base-url=", "RELAY_AUDATEX_BASE_URL"},
		{"--audatex-auth-url=h://example.com", "RELAY_AUDATEX_AUTH_URL"},
		{"--audatex-token-url=https://", "RELAY_AUDATEX_TOKEN_URL"},
		{"--callback-proxy=socks5://example.com", "RELAY_CALLBACK_PROXY"},
		{"--callback-ca-file=missing", "RELAY_CALLBACK_CA_FILE"},
		{"--nats-url=http://example.com", "RELAY_NATS_URL"},
		{"--nats-url=nats://a:4222,nats://b c:4222", "RELAY_NATS_URL"},
		{"--nats-url=nats://:4222", "RELAY_NATS_URL"},
		{"--nats-url=nats://a:4222,", "RELAY_NATS_URL"},
		{"--nats-url=nats://a:4222,wss://b:443", "RELAY_NATS_URL"},
		{"--nats-creds=relay.creds", "RELAY_NATS_CREDS"}, // embedded, as those that follow
		{"--nats-user=relay", "RELAY_NATS_PASSWORD"},
		{"--nats-password=hush", "RELAY_NATS_PASSWORD"},
		{"--nats-ca=ca.pem", "RELAY_NATS_CA"},
		{"--nats-cert=client.pem", "RELAY_NATS_CERT"},
		{"--nats-key=client.key", "RELAY_NATS_KEY"},
		{"--storage-sync=sometimes", "RELAY_STORAGE_SYNC"},
		{"--storage-sync=0s", "RELAY_STORAGE_SYNC"},
		{"--retention=59m", "RELAY_RETENTION"},
		{"--stream-replicas=6", "RELAY_STREAM_REPLICAS"},
		{"--stream-replicas=3", "RELAY_STREAM_REPLICAS"}, // embedded
		{"--nats-prefix=re.lay", "RELAY_NATS_PREFIX"},
		{"--nats-prefix=", "RELAY_NATS_PREFIX"},
		{"--data-dir=", "RELAY_DATA_DIR"},
		{"--audatex-auth-style=digest", "RELAY_AUDATEX_AUTH_STYLE"},
		{"--audatex-timezone=Local", "RELAY_AUDATEX_TIMEZONE"},
		{"--audatex-timezone=Mars/Olympus", "RELAY_AUDATEX_TIMEZONE"},
		{"--audatex-rate=0", "RELAY_AUDATEX_RATE"},
		{"--audatex-topic=PARTS", "RELAY_AUDATEX_TOPIC"},
		{"--audatex-topic=", "RELAY_AUDATEX_TOPIC"},
		{"--audatex-topic=PARTS..ORDER", "RELAY_AUDATEX_TOPIC"},
		{"--audatex-topic=PARTS.*", "RELAY_AUDATEX_TOPIC"},
		{"--poll-interval=99ms", "RELAY_POLL_INTERVAL"},
		{"--poll-interval=2d", "RELAY_POLL_INTERVAL"},
		{"--poll-sooner=10ms", "RELAY_POLL_SOONER"},
		{"--poll-sooner=25h", "RELAY_POLL_SOONER"},
		{"--poll-sooner-for=-1s", "RELAY_POLL_SOONER_FOR"},
		{"--poll-sooner-for=25h", "RELAY_POLL_SOONER_FOR"},
		{"--retry-schedule=0s", "RELAY_RETRY_SCHEDULE"},
		{"--retry-schedule=8d", "RELAY_RETRY_SCHEDULE"},
		{"--callback-allow-cidrs=10.0.0.1", "RELAY_CALLBACK_ALLOW_CIDRS"},
		{"--shutdown-grace=2h", "RELAY_SHUTDOWN_GRACE"},
		{"--log-level=loud", "RELAY_LOG_LEVEL"},
		{"--log-format=xml", "RELAY_LOG_FORMAT"},
	} {
		t.Run(c.flag, func(t *testing.T) {
			t.Parallel()
			s := given(t, c.flag)
			s.EncryptionKeys = "{}" // an external cluster needs one; it is read later
			_, err := s.Check()
			var setting *Error
			if !errors.As(err, &setting) || setting.Setting != c.setting {
				t.Fatalf("error %v, want one about %s", err, c.setting)
			}
			if text := err.Error(); strings.Contains(text, "\n") || !strings.HasPrefix(text, c.setting+": ") {
				t.Errorf("%q is not one line that begins with the setting", text)
			}
		})
	}
}

func TestNetworksAreMasked(t *testing.T) {
	t.Parallel()
	c, err := given(t, "--callback-allow-cidrs=10.1.2.3/8, fd00::1/64",
		"--trusted-proxies=10.1.2.3/8, ::ffff:10.1.0.0/112,192.0.2.7").Check()
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")}
	if !slices.Equal(c.Allow, want) {
		t.Errorf("allowed networks %v, want %v", c.Allow, want)
	}
	want = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"),
		netip.MustParsePrefix("192.0.2.7/32")}
	if !slices.Equal(c.Proxies, want) {
		t.Errorf("trusted proxies %v, want %v", c.Proxies, want)
	}
}

func TestAnExternalClusterHasThreeCopiesAndNeedsKeys(t *testing.T) {
	t.Parallel()
	const cluster = "--nats-url=nats://a:4222, b:4222,tls://c:4222"
	_, err := given(t, cluster).Check()
	var setting *Error
	if !errors.As(err, &setting) || setting.Setting != "RELAY_ENCRYPTION_KEYS" {
		t.Fatalf("without keys: %v, want an error about RELAY_ENCRYPTION_KEYS", err)
	}
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	c, err := given(t, cluster, "--encryption-keys="+string(keys)).Check()
	if err != nil {
		t.Fatal(err)
	}
	if c.StreamReplicas != 3 {
		t.Errorf("%d copies, want 3", c.StreamReplicas)
	}
	for _, tt := range []struct {
		flags   []string
		setting string
	}{
		{[]string{"--nats-password=hush"}, "RELAY_NATS_USER"},
		{[]string{"--nats-user=relay"}, "RELAY_NATS_PASSWORD"},
		{[]string{"--nats-url=nats://relay:hush@a:4222", "--nats-user=relay", "--nats-password=hush"},
			"RELAY_NATS_URL"},
		{[]string{"--nats-user=relay", "--nats-password-file=missing"}, "RELAY_NATS_PASSWORD_FILE"},
		{[]string{"--nats-creds=missing"}, "RELAY_NATS_CREDS"},
		{[]string{"--nats-ca=missing"}, "RELAY_NATS_CA"},
		{[]string{"--nats-cert=missing"}, "RELAY_NATS_KEY"},
		{[]string{"--nats-key=missing"}, "RELAY_NATS_CERT"},
		{[]string{"--nats-cert=missing", "--nats-key=missing"}, "RELAY_NATS_KEY"},
	} {
		_, err := given(t, append([]string{cluster, "--encryption-keys=" + string(keys)}, tt.flags...)...).Check()
		if !errors.As(err, &setting) || setting.Setting != tt.setting || strings.Contains(err.Error(), "hush") {
			t.Errorf("%v: %v, want an error about %s", tt.flags, err, tt.setting)
		}
	}
	if _, err := given(t, cluster, "--encryption-keys={}", "--nats-listen=:4222").Check(); !errors.As(err, &setting) ||
		setting.Setting != "RELAY_NATS_LISTEN" {
		t.Errorf("with a listener of its own: %v, want an error about RELAY_NATS_LISTEN", err)
	}
}

// secretFile returns the path of a file with a secret.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	s := given(t)
	s.AdminToken, s.AdminTokenFile = "", secretFile(t, "a-token-from-a-file\n")
	s.AudatexClientSecret, s.AudatexClientSecretFile = "", secretFile(t, "  a-secret-from-a-file\r\n")
	c, err := s.Check()
	if err != nil {
		t.Fatal(err)
	}
	if c.Admins[0].Token != "a-token-from-a-file" || c.AudatexClientSecret != "a-secret-from-a-file" {
		t.Errorf("read %q and %q, want them without the white space around", c.Admins[0].Token, c.AudatexClientSecret)
	}
	s.AdminTokenFile = secretFile(t, " \n")
	if _, err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), "RELAY_ADMIN_TOKEN_FILE: ") {
		t.Errorf("an empty file: %v", err)
	}
}

// The token of /metrics comes from either place, is long enough, and gives nobody the rights of an administrator.
func TestMetricsToken(t *testing.T) {
	t.Parallel()
	s := given(t)
	s.MetricsTokenFile = secretFile(t, "a-token-for-the-scraper\n")
	if c, err := s.Check(); err != nil || c.MetricsToken != "a-token-for-the-scraper" {
		t.Errorf("from a file: %q, %v", c.MetricsToken, err)
	}
	checked, err := s.Check()
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{"the-next-token-for-the-scraper\n": "the-next-token-for-the-scraper",
		"short": "", testAdminToken: "", "": ""} {
		if err := os.WriteFile(s.MetricsTokenFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := checked.ReadMetricsToken(); want != "" && got != want || (want == "") != (err != nil) {
			t.Errorf("%q is read again as %q, %v", content, got, err)
		}
	}
	s.MetricsToken = "a-token-for-the-scraper"
	if _, err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), "RELAY_METRICS_TOKEN: ") {
		t.Errorf("from both: %v", err)
	}
	for _, wrong := range []string{"short", testAdminToken, strings.Repeat("a", 15)} {
		s.MetricsToken, s.MetricsTokenFile = wrong, ""
		if _, err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), "RELAY_METRICS_TOKEN: ") ||
			strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestEncryptionKeysInBase64(t *testing.T) {
	t.Parallel()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(keys), base64.StdEncoding.EncodeToString(keys)} {
		read, err := Keys{EncryptionKeys: form}.Read()
		if err == nil {
			_, err = store.NewSealer(read)
		}
		if err != nil {
			t.Errorf("keyset of %d characters: %v", len(form), err)
		}
	}
	var setting *Error
	if _, err := (Keys{EncryptionKeys: "not base64 nor JSON"}).Read(); !errors.As(err, &setting) ||
		setting.Setting != "RELAY_ENCRYPTION_KEYS" {
		t.Errorf("not a keyset: %v, want an error about RELAY_ENCRYPTION_KEYS", err)
	}
}

func TestSettingsNeverShowSecrets(t *testing.T) {
	t.Parallel()
	c, err := given(t).Check()
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("settings", "settings", given(t),
		"config", c, "store", c.StoreConfig)
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c),
		fmt.Sprintf("%v %s %+v", &c, given(t), c.StoreConfig), logged.String()} {
		if strings.Contains(text, testAdminToken) || strings.Contains(text, testClientSecret) {
			t.Errorf("a secret is in %q", text)
		}
	}
	for _, flag := range []string{"--callback-proxy=ftp://user:hush-hush@example.com",
		"--nats-url=nats://user:hush-hush@ex ample.com", "--nats-url=ftp://user:hush-hush@example.com"} {
		s := given(t, flag)
		s.EncryptionKeys = "{}"
		if _, err := s.Check(); err == nil || strings.Contains(err.Error(), "hush-hush") {
			t.Errorf("%s: error %v, want one without the password", flag, err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "0d": 0, " 5s ": 5 * time.Second, "1h30m": 90 * time.Minute,
		"100ms": 100 * time.Millisecond,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "70000d", "5", "soon"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%q) = %s, want an error", text, got)
		}
	}
}
