package audatex

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// testLease is a lease that a test gives and takes.
type testLease struct {
	mu      sync.Mutex
	epoch   uint64
	invalid bool
	gone    bool // held no more, and that is known
	above   uint64
}

func (l *testLease) Epoch() uint64 { return l.epoch }

func (l *testLease) Valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.invalid
}

func (l *testLease) Superseded(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.above = epoch
}

func (l *testLease) told() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.above
}

func (l *testLease) lose(known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.invalid, l.gone = true, known
}

// held makes the configuration of one process among several that holds the lease.
func (l *testLease) held(c *TokensConfig) {
	c.Exclusive = false
	c.Lease = func(string) (Lease, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l, !l.gone
	}
}

// suspension keeps one process from going on at a place, as SIGSTOP would, until it is woken.
type suspension struct {
	at, woken chan struct{}
	once      sync.Once
}

func newSuspension() *suspension {
	return &suspension{at: make(chan struct{}), woken: make(chan struct{})}
}

func (s *suspension) here() {
	s.once.Do(func() {
		close(s.at)
		<-s.woken
	})
}

// slow is one process's way to the store: before and after may hold a write up.
type slow struct {
	TokenStore
	before, after func(rec relay.TokenRecord)
}

func (s slow) SaveToken(
	ctx context.Context, connection string, rec relay.TokenRecord, revision uint64,
) (uint64, error) {
	if s.before != nil {
		s.before(rec)
	}
	revision, err := s.TokenStore.SaveToken(ctx, connection, rec, revision)
	if s.after != nil && err == nil {
		s.after(rec)
	}
	return revision, err
}

// An owner is suspended after the vendor has rotated the token and before the response is stored. Its
// successor waits for the stated time, spends the token once more and is refused; what the first
// one brings home when it wakes counts, and nobody asks for a consent.
func TestAResultThatComesHomeLateIsUsed(t *testing.T) {
	t.Parallel()
	for _, within := range []bool{true, false} { // the stated time
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			stop := newSuspension()
			leaseA, leaseB := &testLease{epoch: 3}, &testLease{epoch: 9}
			a := tokens(t, v, slow{TokenStore: store, before: func(rec relay.TokenRecord) {
				if rec.Intent == nil {
					stop.here()
				}
			}}, leaseA.held)
			b := tokens(t, v, store, leaseB.held)
			done := make(chan error, 1)
			go func() {
				_, err := a.Access(t.Context(), leeds)
				done <- err
			}()
			<-stop.at
			leaseA.lose(false)

			_, err := b.Access(t.Context(), leeds)
			if e := outcomeIs(t, err, Unavailable); e.RetryAfter <= 0 || e.RetryAfter > defaultTimeout+storeSlack {
				t.Errorf("told to wait %s", e.RetryAfter)
			}
			if n, _ := v.count(); n != 1 {
				t.Fatalf("%d requests: the successor did not wait", n)
			}
			if within {
				close(stop.woken)
				synctest.Wait()
			}
			pass(defaultTimeout + storeSlack)
			_, err = b.Access(t.Context(), leeds)
			if within {
				if err != nil {
					t.Fatal(err)
				}
				hasAccess(t, b, store, "access-1")
				if n, spent := v.count(); n != 1 || spent != 0 {
					t.Errorf("%d requests, %d with a spent token", n, spent)
				}
				if err := <-done; err != nil {
					t.Errorf("the one that woke: %v", err)
				}
				return
			}
			if _, ok := errors.AsType[*ConsentRequiredError](err); !ok {
				t.Fatalf("the successor got %v", err)
			}
			close(stop.woken) // a minute later
			if err := <-done; err != nil {
				t.Errorf("the one that woke: %v", err)
			}
			rec := store.get(leeds)
			if rec.RefreshToken.Reveal() != "refresh-1" || rec.ConsentRequiredSince != nil || rec.Epoch != 9 {
				t.Errorf("stored: %q under epoch %d, consent %v",
					rec.RefreshToken.Reveal(), rec.Epoch, rec.ConsentRequiredSince)
			}
			hasAccess(t, b, store, "access-1")
			if _, spent := v.count(); spent != 1 {
				t.Errorf("%d uses of a spent token, want the one of an interrupted refresh", spent)
			}
		})
	}
}

// An owner is suspended between its intent and its request: when it wakes, its successor has
// refreshed, and the token it was about to send is spent. It sends nothing.
func TestAnOwnerThatWakesBeforeItsRequestSendsNothing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"lease not valid", "lease gone", "only late"} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			stop := newSuspension()
			leaseA, leaseB := &testLease{epoch: 3}, &testLease{epoch: 9}
			a := tokens(t, v, slow{TokenStore: store, after: func(relay.TokenRecord) { stop.here() }}, leaseA.held)
			b := tokens(t, v, store, leaseB.held)
			done := make(chan error, 1)
			go func() {
				_, err := a.Access(t.Context(), leeds)
				done <- err
			}()
			<-stop.at
			pass(defaultTimeout + storeSlack)
			hasAccess(t, b, store, "access-1")
			if how != "only late" {
				leaseA.lose(how == "lease gone")
			}
			close(stop.woken)
			outcomeIs(t, <-done, Unavailable)
			if n, spent := v.count(); n != 1 || spent != 0 {
				t.Errorf("%s: %d requests, %d with a spent token", how, n, spent)
			}
			hasAccess(t, a, store, "access-1") // what is stored may be used anywhere
		})
	}
}

// A process that does not own a connection uses the stored token while it is good, and otherwise
// returns an error with a time to come back.
func TestWhoeverDoesNotOwnAConnectionRefreshesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		owner, other := &testLease{epoch: 3}, &testLease{gone: true}
		a, b := tokens(t, v, store, owner.held), tokens(t, v, store, other.held)
		_, err := b.Access(t.Context(), leeds)
		if e := outcomeIs(t, err, Unavailable); e.RetryAfter != ownerPatience {
			t.Errorf("told to wait %s", e.RetryAfter)
		}
		hasAccess(t, a, store, "access-1")
		hasAccess(t, b, store, "access-1")
		pass(29 * time.Minute) // due, and good for a minute
		hasAccess(t, b, store, "access-1")
		if n, _ := v.count(); n != 1 {
			t.Errorf("%d requests", n)
		}
		pass(2 * time.Minute)
		_, err = b.Access(t.Context(), leeds)
		outcomeIs(t, err, Unavailable)
		owner.lose(false)
		_, err = a.Access(t.Context(), leeds)
		outcomeIs(t, err, Unavailable)
		if n, _ := v.count(); n != 1 {
			t.Errorf("%d requests without a valid lease", n)
		}
	})
}
