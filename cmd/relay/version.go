package main

import (
	"fmt"
	"runtime/debug"
)

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
