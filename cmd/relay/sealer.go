package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/audatex-relay/relay/internal/store"
)

// newSealer reads the keys that encrypt secrets at rest: those that are set, or those of the file beside the data.
func newSealer(c config) (*store.Sealer, error) {
	keys, err := c.encryptionKeys()
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		if keys, err = store.KeysFromFile(c.DataDir); err != nil {
			return nil, err
		}
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		return nil, wrong("RELAY_ENCRYPTION_KEYS", "%w", err)
	}
	return sealer, nil
}

// checkKeys refuses keys that open none of the secrets that are stored. Going on would look well and do nothing: no vendor could be
// polled, no callback signed. Keys that open some are taken; what they do not open is told where it is met. A key file that this
// start has made is taken away again, as nothing is encrypted with it.
func checkKeys(ctx context.Context, s *store.Store, c config, made bool) error {
	shut := 0
	opens := func(err error) bool {
		if errors.Is(err, store.ErrSealed) {
			shut++
		}
		return err == nil
	}
	callbacks, err := s.Callbacks.All(ctx, "", func(_ string, err error) { opens(err) })
	if err != nil {
		return err
	}
	if len(callbacks) > 0 {
		return nil
	}
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return err
	}
	for _, e := range connections {
		if _, _, err := s.Tokens.Token(ctx, e.Key); opens(err) {
			return nil
		}
	}
	switch {
	case shut == 0:
		return nil
	case c.EncryptionKeys != "":
		return wrong("RELAY_ENCRYPTION_KEYS", "opens none of the %d secrets in the store: start with the keyset that they were encrypted with", shut)
	}
	file := filepath.Join(c.DataDir, store.KeyFile)
	if made {
		_ = os.Remove(file)
	}
	return wrong("RELAY_ENCRYPTION_KEYS", "%s opens none of the %d secrets in the store: put the file back that was made on first start, or set the keyset that they were encrypted with", file, shut)
}
