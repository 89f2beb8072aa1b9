package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/settings"
)

type sandboxCommand struct {
	Addr     string            `env:"RELAY_SANDBOX_ADDR" default:"127.0.0.1:8090" help:"Address to listen on."`
	ClientID string            `default:"sandbox-client" help:"OAuth client id it knows."`
	Secret   string            `default:"sandbox-secret" help:"OAuth client secret it knows."`
	Seed     uint64            `default:"1" help:"Seed of everything random."`
	Tame     bool              `help:"Switch the hostility off: no unknown fields, no odd dates and digits."`
	Token    settings.Duration `name:"token-lifetime" default:"30m" help:"How long an access token lives."`
	Verbose  bool              `short:"v" help:"Log every request."`

	Accounts  []string `name:"account" sep:"none" placeholder:"COMPANY:USER:PASSWORD:SITE[:TERMINAL]" help:"Who can sign in; repeat for several. Default C4711:bms.4711:sandbox:4711."`
	Redirects []string `name:"redirect-uri" sep:"none" help:"Address that a consent may return to; repeat for several. Default any."`
	PKCE      string   `name:"pkce" default:"verify" enum:"verify,ignore,refuse" help:"What it makes of code challenges: ${enum}."`
	RateLimit int      `help:"API requests a minute before it answers 429; 0 for no limit."`
}

// accounts reads the --account flags.
func (c *sandboxCommand) accounts() ([]sandbox.Account, error) {
	var accounts []sandbox.Account
	for _, text := range c.Accounts {
		parts := strings.SplitN(text, ":", 5)
		if len(parts) < 4 {
			return nil, settings.Wrong("--account",
				"an account is COMPANY:USER:PASSWORD:SITE, with or without :TERMINAL")
		}
		a := sandbox.Account{Password: parts[2], Consent: sandbox.Consent{
			CompanyCode: parts[0], User: parts[1], Sites: []string{parts[3]},
		}}
		if len(parts) == 5 {
			a.Terminal = parts[4]
		}
		accounts = append(accounts, a)
	}
	return accounts, nil
}

// Run serves the vendor's double until its context ends. docs/sandbox.md describes how to steer it.
func (c *sandboxCommand) Run(p program) error {
	if err := settings.CheckListener(c.Addr); err != nil {
		return settings.Wrong("--addr", "%w", err)
	}
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	accounts, err := c.accounts()
	if err != nil {
		return err
	}
	config := sandbox.Config{
		ClientID: c.ClientID, ClientSecret: c.Secret, Seed: c.Seed, Tame: c.Tame, AccessTokenLifetime: c.Token.D(),
		RedirectURIs: c.Redirects, RateLimit: c.RateLimit, Log: log,
		Accounts: accounts, Behaviour: sandbox.Behaviour{PKCE: sandbox.PKCE(c.PKCE)},
	}
	if err := config.Check(); err != nil {
		return settings.Wrong("--account", "%w", err)
	}
	s := sandbox.New(config)
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return settings.Wrong("--addr", "%w", err)
	}
	base := "http://" + listener.Addr().String()
	fmt.Fprintf(p.stdout, "RELAY_AUDATEX_BASE_URL=%s\nRELAY_AUDATEX_AUTH_URL=%s\nRELAY_AUDATEX_TOKEN_URL=%s\n"+
		"RELAY_AUDATEX_CLIENT_ID=%s\nRELAY_AUDATEX_CLIENT_SECRET=%s\n",
		base+sandbox.APIPath, base+sandbox.AuthorizePath, base+sandbox.TokenPath, c.ClientID, c.Secret)
	fmt.Fprintf(p.stderr, "the sandbox listens; its control API is %s (docs/sandbox.md)\n", base+sandbox.ControlPath)
	return ingress.Serve(p.ctx, &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}, listener)
}
