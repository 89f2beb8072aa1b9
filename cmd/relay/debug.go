package main

import (
	"fmt"
	"os"
	"syscall"
)

type debugCommand struct {
	PID int `name:"pid" default:"1" help:"Process id of the relay; that of a container's relay is 1."`
}

// Help describes the command.
func (debugCommand) Help() string {
	return "Sends SIGUSR1 to a relay that runs beside it, as the same user: it logs debug lines, and after a second " +
		"time as before. It is for containers, whose image has no kill: kubectl exec POD -- /usr/bin/relay debug."
}

// Run sends the signal, to nothing but a relay: it would end most other processes.
func (c *debugCommand) Run(p program) error {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("it needs Linux: %w", err)
	}
	other, err := os.Stat(fmt.Sprintf("/proc/%d/exe", c.PID))
	switch {
	case err != nil:
		return fmt.Errorf("process %d cannot be looked at: %w", c.PID, err)
	case !os.SameFile(own, other):
		return fmt.Errorf("process %d is no relay of this file: name the relay's with --pid", c.PID)
	}
	if err := syscall.Kill(c.PID, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("signal the process %d: %w", c.PID, err)
	}
	_, err = fmt.Fprintln(p.stdout, "the relay's log says at which level it is now")
	return err
}
