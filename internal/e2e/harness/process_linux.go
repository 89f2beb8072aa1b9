package harness

import "syscall"

// diesWithTest has the kernel end the program if the test process dies before its clean-up (a test binary that runs
// into its own timeout does).
func diesWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
