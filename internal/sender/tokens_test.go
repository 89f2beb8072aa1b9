package sender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/audatex-relay/relay/internal/signature"
)

// tokenServer gives tokens that live for a minute, each after a second, and can fail.
type tokenServer struct {
	asked   atomic.Int32
	failing atomic.Bool
}

func (s *tokenServer) get(ctx context.Context, _ string, _ *ClientCredentials) (*accessToken, error) {
	n := s.asked.Add(1)
	select {
	case <-ctx.Done():
		return nil, &tokenError{reason: "no answer"}
	case <-time.After(time.Second):
	}
	if s.failing.Load() {
		return nil, &tokenError{reason: "answered 500"}
	}
	now := time.Now()
	return newAccessToken(&oauth2.Token{AccessToken: "token-" + strconv.Itoa(int(n)), Expiry: now.Add(time.Minute)},
		now)
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// In virtual time: when tokens are asked for, and by whom.
func TestTokensAreSharedRenewedAndKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := new(tokenServer)
		kept := newTokens(server.get)
		defer kept.close()
		one := &ClientCredentials{TokenURL: "https://auth.example/token", ID: "id", Secret: "one"}
		token := func(c *ClientCredentials) *accessToken {
			t.Helper()
			got, _, err := kept.token(t.Context(), "cb", c)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		is := func(token *accessToken, want string) {
			t.Helper()
			if got := token.authorization(); got != "Bearer "+want {
				t.Errorf("got %s, want %s", got, want)
			}
		}

		// Attempts at the same time share one request.
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { is(token(one), "token-1") })
		}
		all.Wait()

		// Shortly before its end a token is renewed while it is in use, by one request.
		pass(50 * time.Second)
		for range 10 {
			is(token(one), "token-1")
		}
		pass(2 * time.Second)
		is(token(one), "token-2")
		if n := server.asked.Load(); n != 2 {
			t.Errorf("%d requests for two tokens", n)
		}

		// While it cannot be renewed it is used to its end. Then attempts fail, and the server is
		// left alone for a moment.
		server.failing.Store(true)
		pass(50 * time.Second)
		is(token(one), "token-2")
		pass(8 * time.Second)
		asked := server.asked.Load()
		for range 10 {
			if _, _, err := kept.token(t.Context(), "cb", one); err == nil {
				t.Error("a token was used beyond its end")
			}
		}
		if n := server.asked.Load() - asked; n != 1 {
			t.Errorf("%d requests for ten attempts without a token", n)
		}
		server.failing.Store(false)
		pass(tokenPause)
		last := token(one)

		// A refused token is replaced, unless it was got a moment ago.
		if kept.refused("cb", one, last) {
			t.Error("a token that was got just now is to be replaced")
		}
		pass(tokenPause)
		if !kept.refused("cb", one, last) {
			t.Error("a token that was kept for a while is not to be replaced")
		}
		next := token(one)
		if next == last {
			t.Error("a refused token was used again")
		}
		if !kept.refused("cb", one, last) || token(one) != next {
			t.Error("who is refused with a former token takes the present one")
		}

		// Other credentials do not get the token of the former.
		if two := *one; true {
			two.Secret = "two"
			if token(&two) == next {
				t.Error("a token was used with other credentials")
			}
		}

		// Who waits no longer than its time; the request goes on for others.
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errTimeout)
		defer cancel()
		if _, _, err := kept.token(ctx, "other", one); !errors.Is(err, errTimeout) {
			t.Errorf("waited: %v", err)
		}
		asked = server.asked.Load()
		if _, _, err := kept.token(t.Context(), "other", one); err != nil || server.asked.Load() != asked {
			t.Errorf("%v, %d more requests", err, server.asked.Load()-asked)
		}
	})
}

func TestTokensEndWithTheSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kept := newTokens(new(tokenServer).get)
		go func() {
			pass(time.Millisecond)
			kept.close()
		}()
		c := &ClientCredentials{TokenURL: "https://auth.example/token"}
		if _, _, err := kept.token(t.Context(), "cb", c); err == nil {
			t.Error("a request outlived the sender")
		}
		if _, _, err := kept.token(t.Context(), "another", c); !errors.Is(err, errClosed) {
			t.Errorf("asked after the end: %v", err)
		}
	})
}

// A receiver that responds with 401 to a token that was kept is asked once more with a new one. One that
// refuses every token costs no more than that.
func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	t.Parallel()
	var asked, attempts atomic.Int32
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token":"access-token-%d","expires_in":"3600"}`, asked.Add(1))
	}))
	defer auth.Close()
	var revoked atomic.Value
	revoked.Store("")
	bms := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts.Add(1)
		if got := r.Header.Get("Authorization"); got == revoked.Load() || revoked.Load() == "all" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "this token is not valid: "+got)
		}
	}))
	defer bms.Close()
	s := New(Config{AllowCIDRs: prefixes(t, "127.0.0.0/8")})
	defer s.Close()
	r := Request{
		Callback: "cb", URL: bms.URL, EventID: "e", Body: []byte("{}"),
		Secrets: []signature.Secret{signature.NewSecret()},
		Auth:    WithToken(ClientCredentials{TokenURL: auth.URL, ID: "relay", Secret: "client-secret"}),
	}
	send := func() Attempt {
		if of, known := s.tokens.of.Peek("cb"); known {
			of.token.got = time.Time{} // one that was got a moment ago would not be replaced
		}
		return s.Send(t.Context(), r)
	}
	if a := send(); a.Outcome != Success {
		t.Fatalf("%+v", a)
	}
	revoked.Store("Bearer access-token-1")
	if a := send(); a.Outcome != Success || attempts.Load() != 3 || asked.Load() != 2 {
		t.Errorf("%+v after %d requests with %d tokens", a, attempts.Load(), asked.Load())
	}
	revoked.Store("all")
	a := send()
	if a.Outcome != Refused || a.Status != http.StatusUnauthorized || attempts.Load() != 5 || asked.Load() != 3 {
		t.Errorf("%+v after %d requests with %d tokens", a, attempts.Load(), asked.Load())
	}
	if strings.Contains(a.Excerpt, "access-token") {
		t.Errorf("the excerpt tells the token: %s", a.Excerpt)
	}
	// If another one cannot be got, the attempt has both: what the receiver and what the token URL responded.
	auth.Close()
	a = send()
	if a.Outcome != TokenFailed || a.Status != http.StatusUnauthorized || attempts.Load() != 6 ||
		!strings.HasPrefix(a.Error, "the receiver refused the token, and for another one the token URL: ") {
		t.Errorf("%+v after %d requests", a, attempts.Load())
	}
	// Nothing of a callback that is gone stays.
	s.Forget("cb")
	if s.tokens.of.Len() != 0 {
		t.Error("a forgotten callback has a token")
	}
}
