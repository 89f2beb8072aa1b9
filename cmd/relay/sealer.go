package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
)

// newSealer reads the keys that encrypt secrets at rest: those that are set, or those of the file
// beside the data.
func newSealer(keys []byte, dir string) (*store.Sealer, error) {
	if len(keys) == 0 {
		var err error
		if keys, err = store.KeysFromFile(dir); err != nil {
			return nil, err
		}
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		return nil, settings.Wrong("RELAY_ENCRYPTION_KEYS", "%w", err)
	}
	return sealer, nil
}

// checkKeys refuses keys that open none of the secrets that are stored. The relay would seem to
// work and do nothing: no vendor could be polled, no callback signed. Keys that open some are
// accepted; each secret that they do not open is reported when it is read. A key file that this
// start has made is removed again, as nothing is encrypted with it.
func checkKeys(ctx context.Context, s *store.Store, c settings.Config, made bool) error {
	opened, sealed, err := s.Opens(ctx)
	switch {
	case err != nil, opened, sealed == 0:
		return err
	case len(c.Keyset) > 0:
		return settings.Wrong("RELAY_ENCRYPTION_KEYS", "opens none of the %d secrets in the store: start with the keyset that they were encrypted with", sealed)
	}
	file := filepath.Join(c.DataDir, store.KeyFile)
	if made {
		_ = os.Remove(file)
	}
	return settings.Wrong("RELAY_ENCRYPTION_KEYS", "%s opens none of the %d secrets in the store: put the file back that was made on first start, or set the keyset that they were encrypted with", file, sealed)
}
