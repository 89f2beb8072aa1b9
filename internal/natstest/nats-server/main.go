// Command nats-server is the NATS server, of the version that is embedded, in a process of its own for tests of
// clusters. Only its elections differ from those of the server that people run: they take as long as natstest has
// decided. Begin reading at run.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/audatex-relay/relay/internal/natstest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nats-server:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := natstest.ShortenElections(); err != nil {
		return err
	}
	flags := flag.NewFlagSet("nats-server", flag.ExitOnError)
	opts, err := server.ConfigureOptions(flags, os.Args[1:], server.PrintServerAndExit,
		flags.Usage, server.PrintTLSHelpAndDie)
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return err
	}
	s.WaitForShutdown()
	return nil
}
