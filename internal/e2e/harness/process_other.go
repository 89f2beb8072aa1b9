//go:build !linux

package harness

import "syscall"

// diesWithTest does nothing where the kernel has no such thing: the clean-up alone ends the
// program.
func diesWithTest() *syscall.SysProcAttr { return nil }
