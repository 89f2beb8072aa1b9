package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/sandbox"
)

type sandboxCommand struct {
	Addr     string   `env:"RELAY_SANDBOX_ADDR" default:"127.0.0.1:8090" help:"Address to listen on."`
	ClientID string   `default:"sandbox-client" help:"OAuth client id it knows."`
	Secret   string   `default:"sandbox-secret" help:"OAuth client secret it knows."`
	Seed     uint64   `default:"1" help:"Seed of everything random."`
	Tame     bool     `help:"Switch the hostility off: no unknown fields, no odd dates and digits."`
	Token    duration `name:"token-lifetime" default:"30m" help:"How long an access token lives."`
	Verbose  bool     `short:"v" help:"Log every request."`
}

// Run serves the vendor's double until it is told to stop. docs/sandbox.md says how to steer it.
func (c *sandboxCommand) Run(p program) error {
	if err := checkListener(c.Addr); err != nil {
		return wrong("--addr", "%w", err)
	}
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	s := sandbox.New(sandbox.Config{ClientID: c.ClientID, ClientSecret: c.Secret, Seed: c.Seed, Tame: c.Tame, AccessTokenLifetime: c.Token.d(), Log: log})
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return wrong("--addr", "%w", err)
	}
	base := "http://" + listener.Addr().String()
	fmt.Fprintf(p.stdout, "RELAY_AUDATEX_BASE_URL=%s\nRELAY_AUDATEX_AUTH_URL=%s\nRELAY_AUDATEX_TOKEN_URL=%s\nRELAY_AUDATEX_CLIENT_ID=%s\nRELAY_AUDATEX_CLIENT_SECRET=%s\n",
		base+sandbox.APIPath, base+sandbox.AuthorizePath, base+sandbox.TokenPath, c.ClientID, c.Secret)
	fmt.Fprintf(p.stderr, "the sandbox listens; its control API is %s (docs/sandbox.md)\n", base+sandbox.ControlPath)
	return serveHTTP(p.ctx, &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}, listener)
}

// requestGrace is how long a request under way may take to end once its server stops.
const requestGrace = time.Second

// serveHTTP serves until ctx ends, then gives requests under way the grace time.
func serveHTTP(ctx context.Context, server *http.Server, listener net.Listener) error {
	ended := make(chan error, 1)
	go func() {
		if bounded, ok := listener.(*ingress.Listener); ok {
			ended <- bounded.Serve(server)
			return
		}
		ended <- server.Serve(listener)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestGrace)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close() // what is still open was given its time
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
