package audatex

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestTheRefreshOfADeadProcess(t *testing.T) {
	t.Parallel()
	for _, spent := range []bool{false, true} {
		for _, exclusive := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				v := newTokenVendor()
				rec, now := freshRecord(), time.Now()
				if spent {
					v.current = "refresh-lost"
				}
				rec.Intent = &relay.RefreshIntent{ID: "i", Owner: "dead", StartedAt: now.Add(-5 * time.Second),
					Deadline: now.Add(40 * time.Second)}
				store := newTokenMap(leeds, rec)
				m := tokens(t, v, store, func(c *TokensConfig) { c.Exclusive = exclusive })
				var err error
				for {
					if _, err = m.Access(t.Context(), leeds); err == nil || OutcomeOf(err) != Unavailable {
						break
					}
					pass(time.Second)
				}
				wait := 40 * time.Second
				if exclusive {
					wait = 0
				}
				if took := time.Since(now); took < wait || took > wait+time.Second {
					t.Errorf("exclusive %v: taken over after %s", exclusive, took)
				}
				if _, consent := errors.AsType[*ConsentRequiredError](err); consent != spent ||
					(err != nil && !consent) {
					t.Errorf("spent %v: %v", spent, err)
				}
				if n, _ := v.count(); n != 1 {
					t.Errorf("%d requests: the token in doubt is tried once", n)
				}
			})
		}
	}
}

func TestAnIntentOfAnotherClockDoesNotHoldForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec, far := freshRecord(), time.Now().Add(1000*time.Hour)
		rec.Intent = &relay.RefreshIntent{ID: "i", Owner: "dead", StartedAt: far, Deadline: far.Add(45 * time.Second)}
		store := newTokenMap(leeds, rec)
		m := tokens(t, newTokenVendor(), store, func(c *TokensConfig) { c.Exclusive = false })
		_, err := m.Access(t.Context(), leeds)
		if e := outcomeIs(t, err, Unavailable); e.RetryAfter != 45*time.Second {
			t.Errorf("waits %s", e.RetryAfter)
		}
	})
}

func TestOperatorsTokenWinsOverARefreshUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.requests == 1 {
				store.put(leeds, "refresh-1", "g1") // the token that this very refresh will make the current one
			}
		}
		m := tokens(t, v, store, nil)
		hasAccess(t, m, store, "access-2")
		if rec := store.get(leeds); rec.RefreshToken.Reveal() != "refresh-2" || rec.Generation != "g1" {
			t.Errorf("record %q %q", rec.RefreshToken.Reveal(), rec.Generation)
		}
	})
}

func TestResultIsStoredOverAnotherWriteOfTheSameToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() { // a successor announces itself, wrongly or late
			rec := store.get(leeds)
			rec.Epoch, rec.Intent = 7, &relay.RefreshIntent{ID: "other", Owner: "other"}
			if _, err := store.SaveToken(context.Background(), leeds, rec, store.revs[leeds]); err != nil {
				t.Error(err)
			}
		}
		m := tokens(t, v, store, nil)
		hasAccess(t, m, store, "access-1")
		if rec := store.get(leeds); rec.Intent != nil || rec.Epoch != 7 {
			t.Errorf("record %+v", rec)
		}
	})
}

func TestDeletedConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.inside = func() {
			store.mu.Lock()
			defer store.mu.Unlock()
			delete(store.recs, leeds)
			store.revs[leeds] = 0
		}
		m := tokens(t, v, store, nil)
		if _, err := m.Access(t.Context(), leeds); !errors.Is(err, relay.ErrNoToken) {
			t.Errorf("%v", err)
		}
		if _, err := m.Access(t.Context(), "york"); !errors.Is(err, relay.ErrNoToken) {
			t.Errorf("%v", err)
		}
		if _, ok := store.recs[leeds]; ok {
			t.Error("a deleted connection is back")
		}
	})
}

func TestNewerOwnerIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := freshRecord()
		rec.Epoch = 8
		v, store := newTokenVendor(), newTokenMap(leeds, rec)
		lease := &testLease{epoch: 7}
		m := tokens(t, v, store, lease.held)
		_, err := m.Access(t.Context(), leeds)
		outcomeIs(t, err, Unavailable)
		if n, _ := v.count(); n != 0 {
			t.Errorf("%d requests", n)
		}
		if got := lease.told(); got != 8 {
			t.Errorf("the lease was told of epoch %d", got)
		}
	})
}

func TestAWriteThatLandedThoughItFailedIsAdopted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		store.fail = func(rec relay.TokenRecord) (bool, error) {
			if rec.Intent == nil {
				return true, errStore
			}
			return false, nil
		}
		m := tokens(t, v, store, nil)
		hasAccess(t, m, store, "access-1")
		if store.revs[leeds] != 3 {
			t.Errorf("revision %d: written again", store.revs[leeds])
		}
	})
}

func TestNothingIsSentWithoutAnIntent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		store.fail = func(relay.TokenRecord) (bool, error) { return true, errStore } // unclear
		m := tokens(t, v, store, nil)
		if _, err := m.Access(t.Context(), leeds); !errors.Is(err, errStore) {
			t.Errorf("%v", err)
		}
		if n, _ := v.count(); n != 0 {
			t.Errorf("%d requests", n)
		}
		store.setFail(nil)
		pass(2 * time.Second)
		hasAccess(t, m, store, "access-1") // its own intent does not hold it up
	})
}

func TestAmbiguousFailuresKeepTheIntentAndBackOff(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{answer500, cutBefore, answer429} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			v.next = func(n int) fault {
				if n <= 4 {
					return f
				}
				return noFault
			}
			m := tokens(t, v, store, nil)
			start := time.Now()
			for {
				_, err := m.Access(t.Context(), leeds)
				if err == nil {
					break
				}
				want := Unavailable
				if f == answer429 {
					want = Throttled
				}
				if outcomeIs(t, err, want); store.get(leeds).Intent == nil {
					t.Fatal("the intent is gone although nobody knows whether the token is spent")
				}
				pass(100 * time.Millisecond)
			}
			if n, spent := v.count(); n != 5 || spent != 0 {
				t.Errorf("fault %d: %d requests, %d spent", f, n, spent)
			}
			least := 12 * time.Second
			if f == cutBefore { // each is tried once more at once: two waits, not four
				least = 2400 * time.Millisecond
			}
			if took := time.Since(start); took < least {
				t.Errorf("fault %d: five requests within %s", f, took)
			}
			hasAccess(t, m, store, "access-1")
		})
	}
}

func TestARefreshWithoutAnAnswerIsTriedOnceMoreWithTheSameToken(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault    fault
		requests int // until whoever waits gets a token, or an error
		spent    int // uses of a token that was spent already
		outcome  Outcome
	}{
		"never read":      {cutBefore, 2, 0, Done},
		"its answer lost": {cutAfter, 2, 1, Unauthorised}, // the vendor's refusal shows that a consent is needed
		"an answer":       {answer500, 1, 0, Unavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			v.next = func(n int) fault {
				if n == 1 {
					return tt.fault
				}
				return noFault
			}
			m := tokens(t, v, store, nil)
			_, err := m.Access(t.Context(), leeds)
			if OutcomeOf(err) != tt.outcome {
				t.Errorf("%s: %v", name, err)
			}
			if n, spent := v.count(); n != tt.requests || spent != tt.spent {
				t.Errorf("%s: %d requests, %d uses of a spent token", name, n, spent)
			}
		})
	}
}
