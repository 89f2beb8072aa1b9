// Package accesstest makes API keys for tests. The program makes them from the seed of a request
// (access.KeyOf), so that a request that is repeated gives the same key; NewKey draws the seed.
// Begin reading at NewKey.
package accesstest

import (
	"crypto/rand"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/relay"
)

// NewKey makes an API key at random.
func NewKey(role relay.Role, description string, now time.Time, expires *time.Time) (text string, key relay.Key) {
	random := make([]byte, access.KeyBytes)
	_, _ = rand.Read(random) // never fails, see crypto/rand
	return access.KeyOf(random, role, description, now, expires)
}
