package store

import (
	"context"
	"errors"
)

// Opens reports whether the keys of the Sealer open any of the secrets that are stored, and how
// many they do not open, as far as it looked: it stops at the first one that they open.
func (s *Store) Opens(ctx context.Context) (opened bool, sealed int, err error) {
	opens := func(err error) bool {
		if errors.Is(err, ErrSealed) {
			sealed++
		}
		return err == nil
	}
	callbacks, err := s.Callbacks.All(ctx, "", func(_ string, err error) { opens(err) })
	if err != nil || len(callbacks) > 0 {
		return len(callbacks) > 0, sealed, err
	}
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return false, sealed, err
	}
	for _, e := range connections {
		if _, _, err := s.Tokens.Token(ctx, e.Key); opens(err) {
			return true, sealed, nil
		}
	}
	return false, sealed, nil
}
