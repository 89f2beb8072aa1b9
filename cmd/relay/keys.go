package main

import (
	"fmt"

	"github.com/audatex-relay/relay/internal/store"
)

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
