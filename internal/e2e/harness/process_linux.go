package harness

import "syscall"

// DiesWithTest makes the kernel end the program if the test process dies before its clean-up, as a
// test binary does that runs into its own timeout.
func DiesWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
