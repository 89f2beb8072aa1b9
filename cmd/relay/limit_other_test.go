//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

// fileLimit wants prlimit(2); the script that needs it runs on Linux only.
func fileLimit(ts *testscript.TestScript, _ bool, _ []string) { ts.Fatalf("filelimit is for Linux") }
