package audatex

import (
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// keptToken is an access token that may be used until it is due, under the lease under which it was
// read.
type keptToken struct {
	access         relay.Secret
	refreshed, due time.Time
	epoch          uint64
}

// kept returns a connection's kept access token, nil if there is none that may be used, and when its
// record was replaced last.
func (t *Tokens) kept(connection string) (k *keptToken, replaced uint64) {
	if !t.cfg.Keep {
		return nil, 0
	}
	lease, owned := t.cfg.Lease(connection)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	if k := s.kept; owned && k != nil && k.epoch == lease.Epoch() && time.Now().Before(k.due) {
		return k, s.replaced
	}
	return nil, s.replaced
}

// refreshedAt returns when the kept access token was refreshed; false if none is kept.
func (t *Tokens) refreshedAt(connection string) (time.Time, bool) {
	k, _ := t.kept(connection)
	if k == nil {
		return time.Time{}, false
	}
	return k.refreshed, true
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
		s.kept = &keptToken{rec.AccessToken, rec.RefreshedAt, refreshAt(connection, rec), lease.Epoch()}
	}
}

// drop forgets a connection's kept token.
func (t *Tokens) drop(connection string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropKept(t.state(connection))
}

// forget forgets a connection, but not that a refresh is under way.
func (t *Tokens) forget(connection string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(connection)
	t.dropKept(s)
	if s.flight == nil {
		delete(t.states, connection)
	}
}

// dropKept forgets the kept token of a state, and what is being read to be kept. The caller must hold mu.
func (t *Tokens) dropKept(s *tokenState) {
	t.replacements++
	s.kept, s.replaced = nil, t.replacements
}
