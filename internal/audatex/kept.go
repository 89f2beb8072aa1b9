package audatex

import (
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// keptToken is an access token that may be used until it is due, under the lease under which it was
// read.
type keptToken struct {
	access relay.Secret
	due    time.Time
	epoch  uint64
}

// kept returns a connection's kept access token, empty if there is none, and how often its record
// was replaced so far.
func (t *Tokens) kept(connection string) (access relay.Secret, replaced uint64) {
	if !t.cfg.Keep {
		return relay.Secret{}, 0
	}
	lease, owned := t.cfg.Lease(connection)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	if k := s.kept; owned && k != nil && k.epoch == lease.Epoch() && time.Now().Before(k.due) {
		return k.access, s.replaced
	}
	return relay.Secret{}, s.replaced
}

// keep keeps a record's access token, unless the record was replaced since it was read. A token
// that is being refreshed is not kept, because the refresh may be another process's.
func (t *Tokens) keep(connection string, rec relay.TokenRecord, replaced uint64) {
	if !t.cfg.Keep || rec.Intent != nil {
		return
	}
	lease, owned := t.cfg.Lease(connection)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.state(connection); owned && s.replaced == replaced {
		s.kept = &keptToken{rec.AccessToken, refreshAt(connection, rec), lease.Epoch()}
	}
}

// drop forgets a connection's kept token.
func (t *Tokens) drop(connection string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	s.kept = nil
	s.replaced++
}
