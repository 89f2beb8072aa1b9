package main

import (
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// fileLimit BYTES|unlimited bounds the files that the program in the background may write, while it
// runs (RLIMIT_FSIZE).
func fileLimit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || len(ts.BackgroundCmds()) != 1 {
		ts.Fatalf("usage: filelimit bytes|unlimited, with one program in the background")
	}
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if args[0] != "unlimited" {
		n, err := strconv.ParseUint(args[0], 10, 64)
		ts.Check(err)
		limit.Cur = n
	}
	ts.Check(unix.Prlimit(ts.BackgroundCmds()[0].Process.Pid, unix.RLIMIT_FSIZE, &limit, nil))
}
