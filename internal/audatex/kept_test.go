package audatex

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// reads counts the reads of a store, and can do something in the middle of one, after the record
// was read.
type reads struct {
	*tokenMap
	n      atomic.Int64
	within func()
}

func (r *reads) Token(ctx context.Context, connection string) (relay.TokenRecord, uint64, error) {
	r.n.Add(1)
	rec, revision, err := r.tokenMap.Token(ctx, connection)
	if r.within != nil {
		within := r.within
		r.within = nil
		within()
	}
	return rec, revision, err
}

// A record is read once for as long as its access token is good, and again whenever it may have
// changed.
func TestAnAccessTokenIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		good := func(access string) relay.TokenRecord {
			now := time.Now()
			return relay.TokenRecord{
				AccessToken: relay.NewSecret(access), RefreshToken: relay.NewSecret("refresh-0"), RefreshedAt: now,
				ExpiresAt: now.Add(30 * time.Minute),
			}
		}
		v := newTokenVendor()
		store := &reads{tokenMap: newTokenMap(leeds, good("first"))}
		lease := &testLease{epoch: 5}
		m := tokens(t, v, store, func(c *TokensConfig) {
			lease.held(c)
			c.Keep = true
		})
		replace := func(rec relay.TokenRecord) {
			_, revision, _ := store.tokenMap.Token(t.Context(), leeds)
			if _, err := store.SaveToken(t.Context(), leeds, rec, revision); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(when, want string, reads int64) {
			t.Helper()
			store.n.Store(0)
			for range 3 {
				got, err := m.Access(t.Context(), leeds)
				if err != nil || got.Reveal() != want {
					t.Fatalf("%s: %q, %v; want %q", when, got.Reveal(), err, want)
				}
			}
			if n := store.n.Load(); n != reads {
				t.Errorf("%s: %d reads for three calls, want %d", when, n, reads)
			}
		}
		expect("the first", "first", 1)
		expect("again", "first", 0)

		s := &Session{tokens: m, connection: leeds}
		replace(good("second"))
		s.TokenReplaced()
		expect("replaced by somebody else", "second", 1)

		s.TokenReplaced()
		store.within = func() { // what was read is old by the time it is there
			replace(good("third"))
			s.TokenReplaced()
		}
		if got, err := m.Access(t.Context(), leeds); err != nil || got.Reveal() != "second" {
			t.Errorf("replaced while it was read: %q, %v", got.Reveal(), err)
		}
		expect("after that", "third", 1)

		lease.epoch = 6
		expect("under the next lease", "third", 1)

		refused := time.Now()
		replace(relay.TokenRecord{RefreshToken: relay.NewSecret("refresh-0"), ConsentRequiredSince: &refused})
		s.TokenReplaced()
		for range 2 {
			store.n.Store(0)
			if _, err := m.Access(t.Context(), leeds); OutcomeOf(err) != Unauthorised || store.n.Load() != 1 {
				t.Errorf("without a consent: %v after %d reads; a new one must count at once", err, store.n.Load())
			}
		}
		other := good("fourth")
		other.Intent = &relay.RefreshIntent{ID: "x", Owner: "another", StartedAt: time.Now(),
			Deadline: time.Now().Add(time.Minute)}
		replace(other)
		expect("while another process refreshes it", "fourth", 3)

		replace(good("fifth"))
		expect("afterwards", "fifth", 1)
		m.Invalidate(leeds, relay.NewSecret("fifth"))
		if got, err := m.Access(t.Context(), leeds); err != nil || got.Reveal() == "fifth" {
			t.Errorf("refused by the vendor: %q, %v", got.Reveal(), err)
		}
		synctest.Wait()
		rec := store.get(leeds)
		expect("after the refresh", rec.AccessToken.Reveal(), 1)
		pass(time.Until(refreshAt(leeds, rec)))
		if got, err := m.Access(t.Context(), leeds); err != nil || got.Reveal() != rec.AccessToken.Reveal() {
			t.Errorf("due, and refreshed while it is good: %q, %v", got.Reveal(), err)
		}
		synctest.Wait()
		expect("refreshed", store.get(leeds).AccessToken.Reveal(), 1)

		lease.lose(true)
		expect("not the owner", store.get(leeds).AccessToken.Reveal(), 3)
	})
}

// What is forgotten while its record is read is not kept either.
func TestAConnectionIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		store := &reads{tokenMap: newTokenMap(leeds, relay.TokenRecord{
			AccessToken: relay.NewSecret("access"), RefreshToken: relay.NewSecret("refresh-0"), RefreshedAt: now,
			ExpiresAt: now.Add(time.Hour),
		})}
		m := tokens(t, newTokenVendor(), store, func(c *TokensConfig) { c.Keep = true })
		s := &Session{tokens: m, connection: leeds}
		access := func(reads int64) {
			t.Helper()
			store.n.Store(0)
			if _, err := m.Access(t.Context(), leeds); err != nil || store.n.Load() != reads {
				t.Errorf("%d reads, %v; want %d", store.n.Load(), err, reads)
			}
		}
		access(1)
		access(0)
		s.Forget()
		if len(m.states) != 0 {
			t.Errorf("%d connections are remembered", len(m.states))
		}
		store.within = s.Forget
		access(1)
		access(1)
		access(0)
	})
}
