package consent

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// crash has a replica die at its n-th write: before it is sent, or after it was stored and before
// the response came.
func (r *replica) crash(n int, stored bool) (crashed func() bool) {
	var writes atomic.Int64
	var dead atomic.Bool
	fails := errors.New("the process has ended")
	r.gate.Store(&store.Gate{
		Before: func(store.Write) error {
			if writes.Add(1) == int64(n) && !stored || dead.Load() {
				dead.Store(true)
				return fails
			}
			return nil
		},
		After: func(store.Write) error {
			if writes.Load() >= int64(n) && stored || dead.Load() {
				dead.Store(true)
				return fails
			}
			return nil
		},
	})
	return dead.Load
}

// A process that dies between any two steps leaves a consent that the next one ends: with the new
// tokens in use, or readably as interrupted, to be begun again. Nothing is exchanged twice, and no
// spent token is ever used.
func TestAProcessDiesBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, exclusive)
	w.account("4711")
	interrupted, connected := 0, 0
	for _, stored := range []bool{false, true} {
		for n := 1; ; n++ {
			name := fmt.Sprintf("write-%d-%v", n, stored)
			c := w.connection(name, "4711")
			w.before(c)
			made := w.link(NewLink{Connection: c})
			b := w.browser()
			back := b.toVendor(made.URL, "4711")
			exchanged := w.box.Counters().CodesExchanged

			dying := w.any()
			crashed := dying.crash(n, stored)
			at := b.get(back)
			if at.location != "" { // the result is not waited for: the process may be dead
				eventually(t, func() bool {
					return crashed() || w.stored(made.ID).Attempts[0].Phase == relay.ConsentDone
				})
			}
			if !crashed() {
				dying.gate.Store(nil)
				if connected < 4 || interrupted == 0 {
					t.Errorf("%d writes, %d ended with tokens and %d were interrupted", n-1, connected, interrupted)
				}
				break
			}
			dying.stop()
			w.remove(dying)
			w.start(exclusive)

			result := b.finish(back)
			if strings.Contains(result.title(), "taking longer") {
				result = b.finish(back)
			}
			a := w.stored(made.ID).Attempts[0]
			if a.Phase != relay.ConsentDone {
				t.Fatalf("%s: %+v\n%s", name, a, result.body)
			}
			if a.Result.Outcome == relay.ConsentInterrupted {
				interrupted++
				if again := b.consent(mainLink(result), "4711"); !strings.HasPrefix(again.title(), "Connected") {
					t.Errorf("%s: begun again: %s", name, again.title())
				}
			} else {
				connected++
				if got := w.box.Counters().CodesExchanged - exchanged; got != 1 ||
					!strings.HasPrefix(result.title(), "Connected") {
					t.Errorf("%s: %s, %d codes were exchanged", name, a.Result.Outcome, got)
				}
			}
			w.usable(c)
		}
	}
	if spent := w.box.Counters().SpentRefreshTokens; spent != 0 {
		t.Errorf("%d spent refresh tokens were used", spent)
	}
}

// usable has the vendor take a connection's tokens.
func (w *world) usable(c relay.Connection) {
	w.t.Helper()
	r := w.any()
	access, err := r.c.Tokens.Access(w.t.Context(), c.ID)
	if err == nil {
		_, err = r.c.Client.Whoami(w.t.Context(), access)
	}
	if err != nil {
		w.t.Errorf("the tokens of %s: %v", c.ID, err)
	}
	now, _, err := r.store.Connections.Get(w.t.Context(), c.ID)
	if err != nil || now.Consent == nil || now.Consent.ID != w.token(c.ID).ConsentID {
		w.t.Errorf("connection %s notes %+v, %v", c.ID, now.Consent, err)
	}
}

// remove takes a replica out of the turn.
func (w *world) remove(gone *replica) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []*replica
	for _, r := range w.replicas {
		if r != gone {
			left = append(left, r)
		}
	}
	w.replicas = left
}

func exclusive(c *Config) { c.Exclusive = true }

// eventually waits until something holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(end) {
			t.Fatal("it never came to hold")
		}
		select {
		case <-t.Context().Done():
			t.Fatal("it never came to hold")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Tokens that are in use and were refreshed since are not replaced by older ones, although the
// replica that put them to use crashed before it recorded that.
func TestTokensPutToUseAreNotPutBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, exclusive)
	w.account("4711")
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	dying := w.any()
	// right after the connection has noted the consent, and before the link does
	noted := func(write store.Write) error {
		if strings.Contains(write.Subject, "relay_connections") {
			dying.crash(1, false)
		}
		return nil
	}
	dying.gate.Store(&store.Gate{After: noted})
	_ = b.get(back)
	eventually(t, func() bool {
		now, _, err := dying.store.Connections.Get(t.Context(), "con-a")
		return err == nil && now.Consent != nil
	})
	if phase := w.stored(made.ID).Attempts[0].Phase; phase != relay.ConsentPending {
		t.Fatalf("the attempt is %s", phase)
	}
	dying.stop()
	w.remove(dying)

	// The owner of the connection refreshes the tokens.
	r := w.start(exclusive, func(c *Config) { c.Exclusive = false })
	first := w.token("con-a")
	r.c.Tokens.Invalidate("con-a", first.AccessToken)
	if _, err := r.c.Tokens.Access(t.Context(), "con-a"); err != nil {
		t.Fatal(err)
	}
	refreshed := w.token("con-a")
	if refreshed.RefreshToken.Equal(first.RefreshToken) || refreshed.ConsentID != first.ConsentID {
		t.Fatalf("refreshed: %+v", refreshed)
	}
	r.stop()
	w.remove(r)

	w.start(exclusive)
	if result := b.finish(back); !strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("the result is %s", result.title())
	}
	if now := w.token("con-a"); !now.RefreshToken.Equal(refreshed.RefreshToken) {
		t.Error("the tokens from before the refresh were put back")
	}
	w.usable(c)
}

// A store that accepts no writes during the vendor's response costs time, but not the consent.
func TestTheStoreIsAwayWhileTheVendorAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	var refused atomic.Int64
	claimed := atomic.Bool{}
	w.any().gate.Store(&store.Gate{Before: func(store.Write) error {
		if claimed.Swap(true) && refused.Add(1) < 6 {
			return store.ErrUnavailable
		}
		return nil
	}})
	if result := b.finish(back); !strings.HasPrefix(result.title(), "Connected") || refused.Load() < 6 {
		t.Errorf("%s after %d refusals", result.title(), refused.Load())
	}
	w.usable(c)

	// Where even the state cannot be used up, the code is not spent, and the same address works a
	// moment later.
	second := w.link(NewLink{Connection: c})
	back = b.toVendor(second.URL, "4711")
	before := w.box.Counters().CodesExchanged
	w.any().gate.Store(&store.Gate{Before: func(store.Write) error { return store.ErrUnavailable }})
	if page := b.get(back); page.status != 503 || page.title() != "The relay cannot do this right now" ||
		w.box.Counters().CodesExchanged != before {
		t.Errorf("%d %s", page.status, page.title())
	}
	w.any().gate.Store(nil)
	if result := b.finish(back); !strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("a moment later: %s", result.title())
	}
}
