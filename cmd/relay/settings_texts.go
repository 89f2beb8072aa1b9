package main

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/audatex-relay/relay/internal/pasted"
)

// textSetting is a setting that is read as text.
type textSetting struct {
	name  string
	value *string
	kind  pasted.Kind
}

// texts are all settings that are read as text; secrets besides as readSecret leaves them.
func (s *settings) texts() []textSetting {
	texts := append(s.storage.texts(),
		textSetting{"RELAY_HTTP_ADDR", &s.HTTPAddr, pasted.Token},
		textSetting{"RELAY_METRICS_ADDR", &s.MetricsAddr, pasted.Token},
		textSetting{"RELAY_PUBLIC_URL", &s.PublicURL, pasted.Token},
		textSetting{"RELAY_ADMIN_TOKEN", &s.AdminToken, pasted.Secret},
		textSetting{"RELAY_ADMIN_TOKEN_FILE", &s.AdminTokenFile, pasted.Secret},
		textSetting{"RELAY_ADMIN_TOKENS", &s.AdminTokens, pasted.Document},
		textSetting{"RELAY_ADMIN_TOKENS_FILE", &s.AdminTokensFile, pasted.Secret},
		textSetting{"RELAY_AUDATEX_BASE_URL", &s.AudatexBaseURL, pasted.Token},
		textSetting{"RELAY_AUDATEX_AUTH_URL", &s.AudatexAuthURL, pasted.Token},
		textSetting{"RELAY_AUDATEX_TOKEN_URL", &s.AudatexTokenURL, pasted.Token},
		textSetting{"RELAY_AUDATEX_CLIENT_ID", &s.AudatexClientID, pasted.Secret},
		textSetting{"RELAY_AUDATEX_CLIENT_SECRET", &s.AudatexClientSecret, pasted.Secret},
		textSetting{"RELAY_AUDATEX_CLIENT_SECRET_FILE", &s.AudatexClientSecretFile, pasted.Secret},
		textSetting{"RELAY_AUDATEX_AUTH_STYLE", &s.AudatexAuthStyle, pasted.Token},
		textSetting{"RELAY_AUDATEX_PKCE", &s.AudatexPKCE, pasted.Token},
		textSetting{"RELAY_AUDATEX_TOPIC", &s.AudatexTopic, pasted.Token},
		textSetting{"RELAY_AUDATEX_TIMEZONE", &s.AudatexTimezone, pasted.Token},
		textSetting{"RELAY_NIGHTLY_RECONCILE", &s.NightlyReconcile, pasted.Token},
		textSetting{"RELAY_CALLBACK_PROXY", &s.CallbackProxy, pasted.Token},
	)
	for _, list := range []struct {
		name   string
		values []string
	}{
		{"RELAY_AUDATEX_SCOPES", s.AudatexScopes},
		{"RELAY_TRUSTED_PROXIES", s.TrustedProxies},
		{"RELAY_CONSENT_RETURN_ORIGINS", s.ConsentReturnOrigins},
		{"RELAY_CALLBACK_ALLOW_CIDRS", s.CallbackAllowCIDRs},
	} {
		for i := range list.values {
			list.values[i] = strings.TrimSpace(list.values[i]) // behind a comma it is usual
			texts = append(texts, textSetting{list.name, &list.values[i], pasted.Token})
		}
	}
	return texts
}

func (s *storage) texts() []textSetting {
	return []textSetting{
		{"RELAY_DATA_DIR", &s.DataDir, pasted.Secret},
		{"RELAY_STORAGE_SYNC", &s.StorageSync, pasted.Token},
		{"RELAY_NATS_URL", &s.NATSURL, pasted.Token},
		{"RELAY_NATS_CREDS", &s.NATSCreds, pasted.Secret},
		{"RELAY_NATS_USER", &s.NATSUser, pasted.Secret},
		{"RELAY_NATS_PASSWORD", &s.NATSPassword, pasted.Password},
		{"RELAY_NATS_PASSWORD_FILE", &s.NATSPasswordFile, pasted.Secret},
		{"RELAY_NATS_CA", &s.NATSCA, pasted.Secret},
		{"RELAY_NATS_CERT", &s.NATSCert, pasted.Secret},
		{"RELAY_NATS_KEY", &s.NATSKey, pasted.Secret},
		{"RELAY_NATS_PREFIX", &s.NATSPrefix, pasted.Token},
		{"RELAY_NATS_LISTEN", &s.NATSListen, pasted.Token},
		{"RELAY_NATS_LISTEN_CERT", &s.NATSListenCert, pasted.Secret},
		{"RELAY_NATS_LISTEN_KEY", &s.NATSListenKey, pasted.Secret},
		{"RELAY_ENCRYPTION_KEYS", &s.EncryptionKeys, pasted.Document},
		{"RELAY_ENCRYPTION_KEYS_FILE", &s.EncryptionKeysFile, pasted.Secret},
		{"RELAY_LOG_LEVEL", &s.LogLevel, pasted.Token},
		{"RELAY_LOG_FORMAT", &s.LogFormat, pasted.Token},
	}
}

// clean takes away what came along with a setting that was pasted, and notes for which.
func (c *config) clean(texts []textSetting) error {
	for _, t := range texts {
		clean, trimmed, err := pasted.Clean(*t.value, t.kind)
		if err != nil {
			return wrong(t.name, "%w", err)
		}
		if trimmed {
			c.trimmed = append(c.trimmed, t.name)
		}
		*t.value = clean
	}
	return nil
}

// maxSecretFile bounds what is read of a secret's file.
const maxSecretFile = 1 << 20

// readSecret takes a secret out of its file. The line end that editors put behind a last line is part of no secret
// and no reason for a warning.
func (c *config) readSecret(name string, value *string, file string, kind pasted.Kind) error {
	if file == "" {
		return nil
	}
	if *value != "" {
		return wrong(name, "is given, and so is %s_FILE: give one of them", name)
	}
	f, err := os.Open(file)
	if err != nil {
		return wrong(name+"_FILE", "the file cannot be read: %w", withoutPath(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return wrong(name+"_FILE", "the file cannot be read: %w", withoutPath(err))
	case len(b) > maxSecretFile:
		return wrong(name+"_FILE", "the file is larger than %d bytes", maxSecretFile)
	}
	content := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if err := c.clean([]textSetting{{name + "_FILE", &content, kind}}); err != nil {
		return err
	}
	if content == "" {
		return wrong(name+"_FILE", "the file is empty")
	}
	*value = content
	return nil
}

// withoutPath is why a file cannot be opened, without its name: what stands in the setting may be the secret itself.
func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// warn tells of what was made of the settings, and of those that are none.
func (c config) warn(p program, log *slog.Logger) {
	for _, name := range c.trimmed {
		log.Warn("white space or a byte order mark around a setting was taken away; give it without", "setting", name)
	}
	for _, u := range p.unknown {
		log.Warn("a variable is set that is no setting of the relay and has no effect",
			"variable", u.name, "nearest", u.nearest)
	}
}
