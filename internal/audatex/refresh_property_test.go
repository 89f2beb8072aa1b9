package audatex

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

// bubbled hides what may not be called of a testing.T in a synctest bubble.
type bubbled struct{ testing.TB }

// With any behaviour of the vendor, the store, operators and crashes: a token in use is a stored
// token; a spent refresh token is sent at most once for each time a response could not reach the
// store; without such a time no consent is ever lost; and when the trouble ends, the connection
// works again or reports that it needs a consent.
func TestRefreshInvariants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			v.life = 600
			faults := rapid.SliceOfN(rapid.SampledFrom([]fault{noFault, noFault, noFault, answer500, answer429,
				cutBefore,
				cutAfter, garbled}), 80, 80).Draw(rt, "faults")
			landed := rapid.SliceOfN(rapid.Bool(), 40, 40).Draw(rt, "landed")
			var (
				mu sync.Mutex // of what follows
				// lost counts the responses that were cut or garbled, or whose process was killed
				// meanwhile.
				lost         int
				healthy      bool
				storeTrouble int
				sparesIntent bool // the trouble begins after the intent was stored
			)
			v.next = func(n int) fault {
				mu.Lock()
				defer mu.Unlock()
				if healthy {
					return noFault
				}
				f := faults[n%len(faults)]
				if f == cutAfter || f == garbled {
					lost++
				}
				return f
			}
			v.inside = func() { pass(5 * time.Second) }
			store.fail = func(rec relay.TokenRecord) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if healthy || storeTrouble == 0 || sparesIntent && rec.Intent != nil {
					return false, nil
				}
				storeTrouble--
				return landed[storeTrouble%len(landed)], errStore
			}
			lostSoFar := func() int {
				mu.Lock()
				defer mu.Unlock()
				return lost
			}
			dial := serveInMemory(t, v)
			start := func() *Tokens {
				m, err := NewTokens(TokensConfig{
					TokenURL: "http://portal.test/token", ClientID: "relay", Store: store, Exclusive: true,
					DialContext: dial,
					Logger:      quiet,
				})
				if err != nil {
					rt.Fatal(err)
				}
				return m
			}
			m := start()
			defer func() { kill(m) }()
			access := func(patience time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				got, err := m.Access(ctx, leeds)
				if err == nil && !got.Equal(store.get(leeds).AccessToken) {
					rt.Fatalf("%q is in use, %q is stored", got.Reveal(), store.get(leeds).AccessToken.Reveal())
				}
				return err
			}
			consent := func(err error) bool {
				_, ok := errors.AsType[*ConsentRequiredError](err)
				if ok && lostSoFar() == 0 {
					rt.Fatalf("a consent was lost though every answer could be stored: %v", err)
				}
				return ok
			}
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				switch rapid.SampledFrom([]string{"access", "access", "access", "wait", "reject", "store", "crash",
					"operator"}).Draw(rt, "step") {
				case "access":
					consent(access(time.Duration(rapid.IntRange(1, 60).Draw(rt, "patience")) * time.Second))
				case "wait":
					pass(time.Duration(rapid.IntRange(1, 900).Draw(rt, "seconds")) * time.Second)
				case "reject":
					m.Invalidate(leeds, store.get(leeds).AccessToken)
				case "store":
					n, spares := rapid.IntRange(1, 9).Draw(rt, "writes"), rapid.Bool().Draw(rt, "sparesIntent")
					mu.Lock()
					storeTrouble, sparesIntent = n, spares
					mu.Unlock()
				case "crash":
					if store.get(leeds).Intent != nil {
						mu.Lock()
						lost++ // the response may be on its way, or in the memory that is lost now
						mu.Unlock()
					}
					kill(m)
					synctest.Wait()
					pass(6 * time.Second) // the vendor finishes what it works on
					m = start()
				case "operator":
					if store.get(leeds).ConsentRequiredSince != nil {
						v.mu.Lock()
						current := v.current
						v.mu.Unlock()
						store.put(leeds, current, "g1")
					}
				}
			}
			mu.Lock()
			healthy = true
			mu.Unlock()
			var err error
			for range 100 {
				if err = access(time.Minute); err == nil || consent(err) {
					break
				}
				pass(10 * time.Second)
			}
			if _, ok := errors.AsType[*ConsentRequiredError](err); err != nil && !ok {
				rt.Fatalf("does not recover: %v", err)
			}
			if _, spent := v.count(); spent > lostSoFar() {
				rt.Fatalf("%d uses of a spent token, %d lost answers", spent, lostSoFar())
			}
		})
	})
}
