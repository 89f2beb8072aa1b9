package settings

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

func TestWhatWasPastedAroundASettingIsTakenAwayWithAWarning(t *testing.T) {
	t.Parallel()
	const around = "\ufeff \t%\r\n "
	pasted := func(value string) string { return strings.ReplaceAll(around, "%", value) }
	s := given(t)
	s.AdminToken, s.AudatexClientID, s.AudatexClientSecret = pasted(testAdminToken),
		pasted("id"), pasted(testClientSecret)
	s.PublicURL, s.AudatexBaseURL, s.AudatexAuthURL = pasted("https://relay.example.com"),
		pasted("https://a.example.com/api/"), pasted("https://b.example.com/")
	s.AudatexTokenURL, s.CallbackProxy, s.NATSURL = pasted("https://c.example.com/token"),
		pasted("http://us:pass@proxy:3128"), pasted("nats://a:4222, nats://b:4222")
	s.NATSUser, s.NATSPassword, s.EncryptionKeys = pasted("relay"), "\ufeff hush \r\n", pasted("{\n}")
	s.HTTPAddr, s.LogLevel, s.AudatexScopes = pasted(":8080"), "info\n", []string{"A", " B"}
	c, err := s.Check()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []struct{ got, want string }{
		{c.AdminToken, testAdminToken}, {c.AudatexClientID, "id"}, {c.AudatexClientSecret, testClientSecret},
		{c.PublicURL, "https://relay.example.com"}, {c.AudatexBaseURL, "https://a.example.com/api"},
		{c.AudatexAuthURL, "https://b.example.com"},
		{c.AudatexTokenURL, "https://c.example.com/token"}, {c.Proxy.Host, "proxy:3128"},
		{c.NATSURL, "nats://a:4222,nats://b:4222"},
		{c.NATSUser, "relay"}, {c.NATSPassword, " hush "}, {string(c.Keyset), "{\n}"}, {c.HTTPAddr, ":8080"},
		{strings.Join(c.AudatexScopes, ","), "A,B"},
	} {
		if got.got != got.want {
			t.Errorf("%q, want %q", got.got, got.want)
		}
	}
	want := []string{
		"RELAY_ADMIN_TOKEN", "RELAY_AUDATEX_AUTH_URL", "RELAY_AUDATEX_BASE_URL", "RELAY_AUDATEX_CLIENT_ID",
		"RELAY_AUDATEX_CLIENT_SECRET",
		"RELAY_AUDATEX_TOKEN_URL", "RELAY_CALLBACK_PROXY", "RELAY_ENCRYPTION_KEYS", "RELAY_HTTP_ADDR",
		"RELAY_LOG_LEVEL", "RELAY_NATS_PASSWORD",
		"RELAY_NATS_URL", "RELAY_NATS_USER", "RELAY_PUBLIC_URL",
	}
	if slices.Sort(c.trimmed); !slices.Equal(c.trimmed, want) {
		t.Errorf("warned of %v, want %v", c.trimmed, want)
	}
	var log bytes.Buffer
	c.Warn(slog.New(slog.NewTextHandler(&log, nil)))
	if got := log.String(); strings.Count(got, "level=WARN") != len(want) || strings.Contains(got, "hush") ||
		!strings.Contains(got, "setting=RELAY_NATS_PASSWORD") {
		t.Errorf("log: %s", got)
	}
}

func TestSecretsInFilesOfWindows(t *testing.T) {
	t.Parallel()
	wide := func(order binary.AppendByteOrder, s string) string {
		var b []byte
		for _, unit := range utf16.Encode([]rune(s)) {
			b = order.AppendUint16(b, unit)
		}
		return string(b)
	}
	for _, tt := range []struct {
		content, want, err string
		warned             bool
	}{
		{content: "a-secret\n", want: "a-secret"},
		{content: "a-secret\r\n", want: "a-secret"},
		{content: "a-secret", want: "a-secret"},
		{content: "a-secret\n\n", want: "a-secret", warned: true},
		{content: "\ufeffa-secret\r\n", want: "a-secret", warned: true},
		{content: " a-secret ", want: "a-secret", warned: true},
		{content: wide(binary.LittleEndian, "\ufeffa-secret\r\n"), err: "UTF-16"},
		{content: wide(binary.BigEndian, "\ufeffa-secret\r\n"), err: "UTF-16"},
		{content: wide(binary.LittleEndian, "a-secret"), err: "UTF-16"},
		{content: "'a-secret'\n", err: "quotes"},
		{content: "a-sec\nret\n", err: "control character"},
		{content: "a-sec\xffret\n", err: "not UTF-8"},
		{content: "\ufeff \r\n", err: "empty"},
		{content: strings.Repeat("x", maxSecretFile+1), err: "larger than"},
	} {
		s := given(t)
		s.AudatexClientSecret, s.AudatexClientSecretFile = "", secretFile(t, tt.content)
		c, err := s.Check()
		if tt.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), "RELAY_AUDATEX_CLIENT_SECRET_FILE: ") ||
				!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "a-sec") {
				t.Errorf("%.20q: %v, want an error about %s", tt.content, err, tt.err)
			}
			continue
		}
		if err != nil || c.AudatexClientSecret != tt.want || (len(c.trimmed) > 0) != tt.warned {
			t.Errorf("%q: %q, warned of %v, %v", tt.content, c.AudatexClientSecret, c.trimmed, err)
		}
	}
	s := given(t)
	s.AudatexClientSecret, s.AudatexClientSecretFile = "", "a-secret-in-the-wrong-variable"
	if _, err := s.Check(); err == nil || strings.Contains(err.Error(), "a-secret") {
		t.Errorf("a secret in a file's place: %v", err)
	}
}

func TestNoErrorQuotesAnAddress(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"public-url", "audatex-base-url", "audatex-auth-url", "audatex-token-url",
		"callback-proxy", "nats-url", "http-addr", "metrics-addr", "nats-listen",
		"callback-allow-cidrs", "trusted-proxies"} {
		for _, value := range []string{
			"us:hush@host:1", "//us:hush@host", "us:hush@host/path", "ftp://us:hush@host", "http://us:hush@:80",
			"http://us:hush@host:port", "http://us:hush@ho st",
			"http://us:hu/hush@host", "http://us:12/hush@host:1", "http://us:12?hush@host:1",
			"http://us:12#hush@host:1", "http://us:%zhush@host", "http://[::hush", "nats://us:12/hush@host:4222",
			"nats://us:hu#hush@host", "nats://us;hush/host", "http:/us:hush@host", "hush", "https://us:hush|x/host",
			"hush:pass:x", "http://us:hush@host:99999", "\"http://us:hush@host\"", "http://hush\x01",
		} {
			if flag != "nats-url" && strings.HasPrefix(value, "nats://") {
				continue
			}
			if flag == "nats-url" && (value == "hush" || value == "us:hush@host:1") { // both are addresses there
				continue
			}
			s := given(t, "--"+flag+"="+value)
			s.EncryptionKeys = "{}"
			_, err := s.Check()
			var setting *Error
			if !errors.As(err, &setting) || strings.Contains(err.Error(), "hush") ||
				setting.Setting != "RELAY_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) {
				t.Errorf("--%s=%q: %v", flag, value, err)
			}
		}
	}
	for _, flag := range []string{"storage-sync", "nats-prefix", "audatex-auth-style", "audatex-pkce",
		"audatex-timezone", "log-level", "log-format"} {
		for _, value := range []string{"http://us:hush@host", "us:hush@host", "tls//hush@host", `http:\\us:hush`} {
			_, err := given(t, "--"+flag+"="+value).Check()
			var setting *Error
			if !errors.As(err, &setting) || strings.Contains(err.Error(), "hush") {
				t.Errorf("--%s=%q: %v", flag, value, err)
			}
		}
	}
	for _, good := range []string{
		"--callback-proxy=http://us:p%40ss@proxy:3128/", "--public-url=https://relay.example.com/a/b/",
		"--audatex-base-url=http://[::1]:8080/x", "--nats-url=us:pass@host:4222,tls://b",
		"--audatex-base-url=https://büro.example.com", "--http-addr=[::1]:0", "--http-addr=localhost:1",
		"--nats-url=ws://a_b:80/",
	} {
		s := given(t, good)
		s.EncryptionKeys = "{}"
		if _, err := s.Check(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// Every text is cleaned by the rule of its kind: a tag that is misspelt would be a Token's.
func TestEveryTextHasAVariableAndAKind(t *testing.T) {
	t.Parallel()
	var look func(of reflect.Type) int
	look = func(of reflect.Type) (texts int) {
		for i := range of.NumField() {
			f := of.Field(i)
			if f.Anonymous {
				texts += look(f.Type)
				continue
			}
			if _, known := kinds[f.Tag.Get("pasted")]; !known || !strings.HasPrefix(f.Tag.Get("env"), variablePrefix) {
				t.Errorf("%s.%s: pasted %q, env %q", of.Name(), f.Name, f.Tag.Get("pasted"), f.Tag.Get("env"))
			}
			if f.Type == reflect.TypeFor[string]() || f.Type == reflect.TypeFor[[]string]() {
				texts++
			}
		}
		return texts
	}
	if n := look(reflect.TypeFor[Serve]()); n < 40 {
		t.Errorf("only %d texts were found", n)
	}
}
