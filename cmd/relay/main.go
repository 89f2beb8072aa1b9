// Command relay hands on what happens to parts orders in Audatex's Inpart: from the vendor's polled queue to NATS subjects and
// signed HTTP callbacks.
//
//	relay serve     the service
//	relay sandbox   the vendor's double, to develop against
//	relay demo      both, with a receiver that verifies, and orders moving through
//	relay keys      a fresh keyset for RELAY_ENCRYPTION_KEYS
//	relay topology  the streams and buckets in NATS: check, apply
//	relay backup    everything that is stored, into a directory
//	relay restore   and back
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailed  = 1
	exitSetting = 2 // a setting is missing or wrong; one line says which
)

// version is set at build time by -ldflags "-X main.version=…".
var version = "dev"

type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the relay."`
	Sandbox sandboxCommand `cmd:"" help:"Run the vendor's double, with faults on request."`
	Demo    demoCommand    `cmd:"" help:"Watch orders move from the vendor's queue to a verified callback."`
	Keys    keysCommand    `cmd:"" help:"Print a fresh keyset for RELAY_ENCRYPTION_KEYS."`

	Topology topologyCommand `cmd:"" help:"Look at the streams and buckets in NATS, or bring them up to date."`
	Backup   backupCommand   `cmd:"" help:"Put everything that is stored into a directory."`
	Restore  restoreCommand  `cmd:"" help:"Put a backup back into an empty store."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

// settingError is a setting that is missing or wrong.
type settingError struct {
	setting string
	err     error
}

func (e *settingError) Error() string { return e.setting + ": " + e.err.Error() }
func (e *settingError) Unwrap() error { return e.err }

func wrong(setting, format string, a ...any) error {
	return &settingError{setting, fmt.Errorf(format, a...)}
}

// program is what a command needs of the process it runs in.
type program struct {
	ctx            context.Context // ends with SIGTERM, an interrupt, or its terminal
	stdout, stderr io.Writer

	unknown []unknownVariable // set by run
}

func main() {
	ending := []os.Signal{syscall.SIGTERM, os.Interrupt}
	if !signal.Ignored(syscall.SIGHUP) { // under nohup
		ending = append(ending, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(program{ctx: ctx, stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

func run(p program, args []string) int {
	exited := -1
	parser, err := kong.New(&commands{}, kong.Name("relay"),
		kong.Description("Hands on what happens to parts orders in Audatex's Inpart: from the vendor's polled queue to NATS subjects and signed HTTP callbacks."),
		kong.Vars{"version": buildVersion()}, kong.Writers(p.stdout, p.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.Exit(func(code int) { exited = code }),
	)
	if err != nil {
		fmt.Fprintln(p.stderr, "relay:", err)
		return exitFailed
	}
	c, err := parser.Parse(args)
	if exited >= 0 { // --help and --version have printed
		return exited
	}
	if err != nil {
		// One line that names the flag or the variable; a page of usage would hide it.
		line := hideAddresses(strings.ReplaceAll(err.Error(), "\n", " "), args, os.Environ())
		fmt.Fprintf(p.stderr, "relay: %s (see %s --help)\n", line, helpFor(err))
		return exitSetting
	}
	p.unknown = unknownVariables(os.Environ(), variables(parser.Model))
	err = c.Run(p)
	var setting *settingError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &setting):
		fmt.Fprintln(p.stderr, "relay:", err)
		return exitSetting
	}
	fmt.Fprintln(p.stderr, "relay:", err)
	return exitFailed
}

// helpFor answers the command whose help explains what was wrong.
func helpFor(err error) string {
	var parsing *kong.ParseError
	if errors.As(err, &parsing) && parsing.Context != nil {
		if command := parsing.Context.Selected(); command != nil {
			return "relay " + command.Name
		}
	}
	return "relay"
}
