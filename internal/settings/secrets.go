package settings

import (
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/pasted"
)

// texts cleans settings that are read as text, and notes from which something was removed.
type texts struct{ trimmed []string }

// kinds of texts by their tag.
var kinds = map[string]pasted.Kind{"": pasted.Token, "secret": pasted.Secret, "password": pasted.Password,
	"document": pasted.Document}

// cleanAll cleans every text of settings, a pointer to a struct.
func (t *texts) cleanAll(settings any) error { return t.cleanStruct(reflect.ValueOf(settings).Elem()) }

func (t *texts) cleanStruct(v reflect.Value) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			if err := t.cleanStruct(v.Field(i)); err != nil {
				return err
			}
			continue
		}
		name, kind := field.Tag.Get("env"), kinds[field.Tag.Get("pasted")]
		switch text := v.Field(i).Addr().Interface().(type) {
		case *string:
			if err := t.clean(name, text, kind); err != nil {
				return err
			}
		case *[]string:
			for i := range *text {
				(*text)[i] = strings.TrimSpace((*text)[i]) // behind a comma it is usual
				if err := t.clean(name, &(*text)[i], kind); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// clean removes what came along with a text that was pasted.
func (t *texts) clean(name string, value *string, kind pasted.Kind) error {
	clean, trimmed, err := pasted.Clean(*value, kind)
	if err != nil {
		return Wrong(name, "%w", err)
	}
	if trimmed {
		t.trimmed = append(t.trimmed, name)
	}
	*value = clean
	return nil
}

// maxSecretFile bounds what is read of a secret's file.
const maxSecretFile = 1 << 20

// secret reads a secret from its file, if it has one. The line end that editors put behind a last
// line is part of no secret and no reason for a warning.
func (t *texts) secret(name string, value *string, file string, kind pasted.Kind) error {
	if file == "" {
		return nil
	}
	if *value != "" {
		return Wrong(name, "is given, and so is %s_FILE: give one of them", name)
	}
	name += "_FILE"
	b, err := readFile(name, file, maxSecretFile)
	if err != nil {
		return err
	}
	content := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if err := t.clean(name, &content, kind); err != nil {
		return err
	}
	if content == "" {
		return Wrong(name, "the file is empty")
	}
	*value = content
	return nil
}

// readFile reads a setting's file, of at most most bytes.
func readFile(name, file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, Wrong(name, "the file cannot be read: %w", withoutPath(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, Wrong(name, "the file cannot be read: %w", withoutPath(err))
	case int64(len(b)) > most:
		return nil, Wrong(name, "the file is larger than %d bytes", most)
	}
	return b, nil
}

// required is secret for one that must be given. What describes where it comes from.
func (t *texts) required(name string, value *string, file string, kind pasted.Kind, what string) error {
	if err := t.secret(name, value, file, kind); err != nil {
		return err
	}
	if *value == "" {
		return missing(name, what)
	}
	return nil
}

func missing(name, what string) error {
	return Wrong(name, "is required: %s (or name a file in %s_FILE)", what, name)
}

// withoutPath returns why a file cannot be opened, without its name: the setting may hold the
// secret itself.
func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// read returns the keysets that are set, if any are, one after the other. Base64 of each is taken
// as well: JSON is awkward in some environments.
func (k Keys) read(t *texts) ([]byte, error) {
	if err := t.secret("RELAY_ENCRYPTION_KEYS", &k.EncryptionKeys, k.EncryptionKeysFile, pasted.Document); err != nil {
		return nil, err
	}
	keys := strings.TrimSpace(k.EncryptionKeys)
	if keys == "" || keys[0] == '{' || keys[0] == '[' {
		return []byte(keys), nil
	}
	var all []byte
	for one := range strings.FieldsFuncSeq(keys, func(r rune) bool { return strings.ContainsRune(", \n\r\t", r) }) {
		decoded, err := base64.StdEncoding.DecodeString(one)
		if err != nil {
			return nil, Wrong("RELAY_ENCRYPTION_KEYS",
				"is neither a Tink keyset in JSON nor base64 of one (make one with `relay keys`), nor a list of them")
		}
		all = append(append(all, decoded...), '\n')
	}
	return all, nil
}

// adminName is the name in the log of an administrator who uses RELAY_ADMIN_TOKEN.
const adminName = "admin"

// ReadAdmins reads the administrators of both settings, from their files if they are given so. It
// may be called more than once.
func (s Serving) ReadAdmins() ([]access.Admin, error) { return s.readAdmins(&texts{}) }

func (s Serving) readAdmins(t *texts) ([]access.Admin, error) {
	err := t.secret("RELAY_ADMIN_TOKEN", &s.AdminToken, s.AdminTokenFile, pasted.Secret)
	if err == nil {
		err = t.secret("RELAY_ADMIN_TOKENS", &s.AdminTokens, s.AdminTokensFile, pasted.Document)
	}
	if err != nil {
		return nil, err
	}
	var admins []access.Admin
	if s.AdminToken != "" {
		if err := access.CheckAdminToken(s.AdminToken); err != nil {
			return nil, Wrong("RELAY_ADMIN_TOKEN", "%w", err)
		}
		admins = append(admins, access.Admin{Name: adminName, Token: s.AdminToken})
	}
	named, err := access.ParseAdmins(s.AdminTokens)
	if err == nil {
		admins = append(admins, named...)
		err = access.CheckAdmins(admins)
	}
	if err != nil {
		return nil, Wrong("RELAY_ADMIN_TOKENS", "%w", err)
	}
	if len(admins) == 0 {
		return nil, Wrong("RELAY_ADMIN_TOKEN",
			"is required, or RELAY_ADMIN_TOKENS with a name for each: choose a long random token for the "+
				"administrator (or name a file in RELAY_ADMIN_TOKEN_FILE or RELAY_ADMIN_TOKENS_FILE)")
	}
	return admins, nil
}

// ReadMetricsToken reads the token of /metrics from its file. It may be called more than once.
func (s Serving) ReadMetricsToken() (string, error) {
	admins, err := s.ReadAdmins()
	if err != nil {
		return "", err
	}
	s.MetricsToken = "" // as it was read before
	err = s.readMetricsToken(&texts{}, admins)
	return s.MetricsToken, err
}

// readMetricsToken reads the token that /metrics asks for, if there is one. Whoever scrapes must not be able to
// administer.
func (s *Serving) readMetricsToken(t *texts, admins []access.Admin) error {
	const name = "RELAY_METRICS_TOKEN"
	if err := t.secret(name, &s.MetricsToken, s.MetricsTokenFile, pasted.Secret); err != nil || s.MetricsToken == "" {
		return err
	}
	if err := access.CheckAdminToken(s.MetricsToken); err != nil {
		return Wrong(name, "%w", err)
	}
	for _, a := range admins {
		if a.Token == s.MetricsToken {
			return Wrong(name, "is the token of an administrator as well: choose another")
		}
	}
	return nil
}
