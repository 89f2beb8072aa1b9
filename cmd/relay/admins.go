package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/pasted"
)

const (
	// adminName is what the log calls whoever uses RELAY_ADMIN_TOKEN.
	adminName = "admin"
	// adminsEvery is how often the files of the administrators' tokens are read again.
	adminsEvery = 5 * time.Second
)

// readAdmins returns the administrators of both settings, from their files if they are given so. It leaves the settings as
// they are, so that it can be called again.
func (c *config) readAdmins() ([]access.Admin, error) {
	one, several := c.AdminToken, c.AdminTokens
	err := c.readSecret("RELAY_ADMIN_TOKEN", &one, c.AdminTokenFile, pasted.Secret)
	if err == nil {
		err = c.readSecret("RELAY_ADMIN_TOKENS", &several, c.AdminTokensFile, pasted.Document)
	}
	if err != nil {
		return nil, err
	}
	var admins []access.Admin
	if one != "" {
		if err := access.CheckAdminToken(one); err != nil {
			return nil, wrong("RELAY_ADMIN_TOKEN", "%w", err)
		}
		admins = append(admins, access.Admin{Name: adminName, Token: one})
	}
	named, err := access.ParseAdmins(several)
	if err == nil {
		admins = append(admins, named...)
		err = access.CheckAdmins(admins)
	}
	if err != nil {
		return nil, wrong("RELAY_ADMIN_TOKENS", "%w", err)
	}
	if len(admins) == 0 {
		return nil, wrong("RELAY_ADMIN_TOKEN", "is required, or RELAY_ADMIN_TOKENS with a name for each: choose a long random token for the "+
			"administrator (or name a file in RELAY_ADMIN_TOKEN_FILE or RELAY_ADMIN_TOKENS_FILE)")
	}
	return admins, nil
}

// adminFiles are the files of the administrators' tokens.
type adminFiles struct {
	config config
	admins *access.Admins
	log    *slog.Logger
	failed string // why the files could not be read the last time
}

// follow reads the files again until ctx ends, so that a token can be replaced without a restart.
func (f *adminFiles) follow(ctx context.Context) error {
	if f.config.AdminTokenFile == "" && f.config.AdminTokensFile == "" {
		<-ctx.Done()
		return nil
	}
	again := time.NewTicker(adminsEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			f.read()
		}
	}
}

// read takes the files' present content in. While it cannot be used, those who were known before still are.
func (f *adminFiles) read() {
	admins, err := f.config.readAdmins()
	if err != nil {
		if err.Error() != f.failed {
			f.log.Error("the administrators' tokens cannot be read again; those known stay valid", "error", err)
		}
		f.failed = err.Error()
		return
	}
	f.failed = ""
	if added, removed := f.admins.Replace(admins); len(added)+len(removed) > 0 {
		f.log.Warn("the administrators' tokens have changed", "added", added, "removed", removed)
	}
}
