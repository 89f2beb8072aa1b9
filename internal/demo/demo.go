package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// Config is what a demo shows.
type Config struct {
	For      time.Duration // 0: until its context ends
	Callback string        // a receiver of the user's; "": the demo has its own
	Sites    []string
	Rate     int    // new orders a minute
	Faults   bool   // the vendor fails now and then
	Seed     uint64 // of the orders and of what becomes of them

	DropDelivery bool // the demo's receiver loses one delivery after responding 200 to it

	Start Start
	Out   io.Writer
}

// Start runs a relay until ctx ends, and calls started once it serves.
type Start func(ctx context.Context, r Relay, started func(Addresses)) error

// Relay is the relay that a demo wants: with this vendor, this administrator, and everything that
// it stores below Dir.
type Relay struct {
	Dir        string
	VendorURL  string
	AdminToken string
}

// Addresses are where a started relay listens.
type Addresses struct{ API, Metrics, NATS string }

// What a run may end with. The summary has the details.
var (
	ErrBroken  = errors.New("the demo saw the relay break a promise; the summary names it")
	ErrNothing = errors.New("the demo delivered nothing; with --callback, is your receiver running, and does it " +
		"answer 2xx?")
)

// CallbackError is the API's refusal of the user's own receiver.
type CallbackError struct{ Reason string }

func (e *CallbackError) Error() string { return e.Reason }

const (
	setupTime = 30 * time.Second // for the relay to start and to subscribe everywhere
	firstSite = 4711             // the vendor's id of the first site
)

// faults are what Config.Faults lets the vendor do: refuse and linger. Responses that are cut off
// are left out, as the relay is not to blame for what they lose.
var faults = sandbox.Faults{
	Share500: 0.05, Share503: 0.03, Share429: 0.01, RetryAfter: time.Second, ShareLatency: 0.2,
	Latency: 300 * time.Millisecond,
}

// site is a site in the demo: our name and the vendor's id.
type site struct{ name, vendor string }

// Run runs the demo until ctx ends or its time is over, and then judges it.
func Run(ctx context.Context, c Config) (failed error) {
	dir, err := os.MkdirTemp("", "relay-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo's data: %w", err)
	}
	defer func() { failed = errors.Join(failed, os.RemoveAll(dir)) }()

	// What is around the relay goes on until it has drained.
	around, stopAround := context.WithCancel(context.WithoutCancel(ctx))
	var surroundings group.Group
	defer func() { failed = errors.Join(failed, surroundings.Wait()) }()
	defer stopAround()
	vendor := sandbox.New(sandbox.Config{Seed: c.Seed})
	vendorURL, err := serveLoopback(around, &surroundings, "the vendor's double", vendor.Handler())
	if err != nil {
		return err
	}

	// The relay.
	running, stopRelay := context.WithCancel(around)
	var inside group.Group
	defer func() { failed = errors.Join(failed, inside.Wait()) }()
	defer stopRelay()
	wanted := Relay{Dir: dir, VendorURL: vendorURL, AdminToken: relay.NewID()}
	started := make(chan Addresses, 1)
	inside.Go(running, "the relay", func(ctx context.Context) error {
		return c.Start(ctx, wanted, func(at Addresses) { started <- at })
	})
	var at Addresses
	select {
	case at = <-started:
	case err := <-inside.Failed():
		return err
	case <-ctx.Done():
		return nil
	}

	// The receiver, and everything registered as a user would.
	d := newDemo(c, vendor)
	defer d.calls.CloseIdleConnections()
	setup, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	if err := d.prepare(setup, around, &surroundings, at, wanted.AdminToken); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before there was anything to see
		}
		return err
	}

	// Orders move until the time is over.
	err = d.walk(ctx, inside.Failed())
	if err == nil {
		err = d.settle(running)
	}
	stopRelay()
	return errors.Join(err, inside.Wait())
}

// serveLoopback serves on a free port of the loopback interface until ctx ends and returns the base
// address.
func serveLoopback(ctx context.Context, g *group.Group, what string, handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for %s: %w", what, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	g.Go(ctx, what, func(ctx context.Context) error { return ingress.Serve(ctx, server, listener) })
	return "http://" + listener.Addr().String(), nil
}
