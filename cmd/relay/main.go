// Command relay hands on what happens to parts orders in Audatex's Inpart: from the vendor's polled queue to NATS
// subjects and signed HTTP callbacks. This package has only the commands and the wiring: every promise is kept by the
// packages that it joins, and they end in the opposite order of their start. Begin reading at serve, which builds every
// part in order.
//
//	relay serve     the service
//	relay sandbox   the vendor's double, to develop against
//	relay demo      both, with a receiver that verifies, and orders moving through
//	relay keys      a fresh keyset for RELAY_ENCRYPTION_KEYS
//	relay doctor    what is wrong with a relay, and how to mend it
//	relay debug     switches the debug lines of a relay in its container on and off
//	relay topology  the streams and buckets in NATS: check, apply
//	relay backup    everything that is stored, into a directory
//	relay restore   and back
//	relay version   which release this is
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/audatex-relay/relay/internal/logging"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailed  = 1
	exitSetting = 2 // a setting is missing or wrong; one line names it
)

type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the relay."`
	Sandbox sandboxCommand `cmd:"" help:"Run the vendor's double, with faults on request."`
	Demo    demoCommand    `cmd:"" help:"Watch orders move from the vendor's queue to a verified callback."`
	Keys    keysCommand    `cmd:"" help:"Print a fresh keyset for RELAY_ENCRYPTION_KEYS."`

	Doctor   doctorCommand   `cmd:"" help:"Say what is wrong with a relay, and how to mend it."`
	Debug    debugCommand    `cmd:"" help:"Have a relay in the same container log debug lines, or no more."`
	Topology topologyCommand `cmd:"" help:"Look at the streams and buckets in NATS, or bring them up to date."`
	Backup   backupCommand   `cmd:"" help:"Put everything that is stored into a directory."`
	Restore  restoreCommand  `cmd:"" help:"Put a backup back into an empty store."`
	Version  versionCommand  `cmd:"" help:"Print which release this is."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version and exit."`
}

// program is what a command needs of the process it runs in.
type program struct {
	ctx            context.Context // ends with SIGTERM, an interrupt, or (but for serve) its terminal
	stdout, stderr io.Writer

	unknown []settings.Unknown // set by run
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(program{ctx: ctx, stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

func run(p program, args []string) int {
	exited := -1
	parser, err := kong.New(&commands{}, kong.Name("relay"),
		kong.Description("Hands on what happens to parts orders in Audatex's Inpart: "+
			"from the vendor's polled queue to NATS subjects and signed HTTP callbacks."),
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
		line := settings.HideAddresses(strings.ReplaceAll(err.Error(), "\n", " "), args, os.Environ())
		fmt.Fprintf(p.stderr, "relay: %s (see %s --help)\n", line, helpFor(err))
		return exitSetting
	}
	if c.Command() != "serve" && !signal.Ignored(syscall.SIGHUP) { // as under nohup
		ctx, stop := signal.NotifyContext(p.ctx, syscall.SIGHUP)
		defer stop()
		context.AfterFunc(ctx, stop)
		p.ctx = ctx
	}
	p.unknown = settings.UnknownVariables(os.Environ(), variables(parser.Model))
	if err = c.Run(p); err == nil {
		return exitOK
	}
	fmt.Fprintln(p.stderr, "relay:", err)
	if _, wrong := errors.AsType[*settings.Error](err); wrong {
		return exitSetting
	}
	return exitFailed
}

// helpFor returns the command whose help explains what was wrong.
func helpFor(err error) string {
	if parsing, ok := errors.AsType[*kong.ParseError](err); ok && parsing.Context != nil {
		if command := parsing.Context.Selected(); command != nil {
			return "relay " + command.Name
		}
	}
	return "relay"
}

// variables lists the environment names of all settings of all commands.
func variables(app *kong.Application) []string {
	var names []string
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			names = append(names, flag.Envs...)
		}
		return next(nil)
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// newLogger returns the log that the settings ask for.
func newLogger(p program, c settings.StoreConfig) *logging.Log {
	return logging.New(p.stderr, c.Level, c.LogFormat == "text")
}

// warn logs what was changed in the settings, and which variables are not settings.
func (p program) warn(c settings.StoreConfig, log *slog.Logger) {
	c.Warn(log)
	for _, u := range p.unknown {
		log.Warn("a variable is set that is no setting of the relay and has no effect", "variable",
			u.Name, "nearest", u.Nearest)
	}
}

type keysCommand struct{}

// Run prints a keyset that encrypts the relay's secrets at rest.
func (keysCommand) Run(p program) error {
	keys, err := store.NewKeys()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s\n", keys)
	return err
}

// version is set at build time by -ldflags "-X main.version=…".
var version = "dev"

type versionCommand struct{}

// Run prints which release this is.
func (versionCommand) Run(p program) error {
	_, err := fmt.Fprintln(p.stdout, buildVersion())
	return err
}

// buildVersion returns the version set at build time, else what the Go tool knows of the module.
func buildVersion() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}
