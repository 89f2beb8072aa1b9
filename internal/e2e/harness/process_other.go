//go:build !linux

package harness

import "syscall"

// DiesWithTest does nothing where the kernel has no such thing: the clean-up alone ends the
// program.
func DiesWithTest() *syscall.SysProcAttr { return nil }
