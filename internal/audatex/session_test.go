package audatex

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// api is a vendor that takes only the access tokens it likes.
type api struct {
	mu     sync.Mutex
	likes  func(token string) bool
	calls  []string
	answer http.HandlerFunc
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	a.calls = append(a.calls, r.Method+" "+strings.TrimPrefix(r.URL.Path, apiPath)+" "+token)
	likes := a.likes(token)
	a.mu.Unlock()
	if !likes {
		http.Error(w, "Unauthorised. Please provide valid user credentials.", 401)
		return
	}
	a.answer(w, r)
}

// session joins a client of a to the tokens of v.
func session(t *testing.T, v *tokenVendor, a *api, store *tokenMap) *Session {
	t.Helper()
	c, err := New(Config{BaseURL: "http://vendor.test", Logger: slog.New(slog.DiscardHandler),
		DialContext: serveInMemory(t, a)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return NewSession(c, tokens(t, v, store, nil), leeds, relay.LevelSite)
}

func TestSessionRefreshesOnceAfterA401(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		a := &api{
			likes:  func(token string) bool { return token == "access-2" },
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[{"Topic":"x"}]`) },
		}
		s := session(t, v, a, store)
		announced := 0
		page, err := s.Poll(t.Context(), testSubscription, func(context.Context) error { announced++; return nil })
		if err != nil || string(page.Body) != `[{"Topic":"x"}]` || announced != 1 {
			t.Errorf("page %q, announced %d times, %v", page.Body, announced, err)
		}
		if len(a.calls) != 2 || !strings.HasSuffix(a.calls[0], "access-1") ||
			!strings.HasSuffix(a.calls[1], "access-2") {
			t.Errorf("calls %q", a.calls)
		}
		if n, _ := v.count(); n != 2 {
			t.Errorf("%d token requests", n)
		}
	})
}

func TestSessionGivesUpAfterTheSecond401(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		a := &api{likes: func(string) bool { return false }}
		s := session(t, v, a, store)
		_, err := s.Order(t.Context(), testOrder, nil)
		if e := outcomeIs(t, err, Unauthorised); e.Operation != OpOrder {
			t.Errorf("%+v", e)
		}
		if n, _ := v.count(); n != 2 || len(a.calls) != 2 {
			t.Errorf("%d token requests, calls %q", n, a.calls)
		}
		store.put(leeds, "spent", "g1")
		_, err = s.Order(t.Context(), testOrder, nil)
		if OutcomeOf(err) != Unauthorised || len(a.calls) != 2 {
			t.Errorf("without consent: %v, calls %q", err, a.calls)
		}
	})
}

// A caller may lose its right to a request while it waits for the budget. Then the request is not
// sent.
func TestAnOrderIsNotAskedForWhenItsTurnComesTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &api{likes: func(string) bool { return true }}
		s := session(t, newTokenVendor(), a, newTokenMap(leeds, freshRecord()))
		s.client.budget = NewBudget(1)
		s.client.circuit = s.client.budget.circuit("vendor.test", NewMetrics(nil), quiet)
		if _, err := s.Topics(t.Context()); err != nil && len(a.calls) == 0 {
			t.Fatal(err)
		}
		sent, start, late := len(a.calls), time.Now(), errors.New("too late")
		_, err := s.Order(t.Context(), testOrder, func() (context.Context, error) {
			if took := time.Since(start); took < 30*time.Second {
				t.Errorf("its turn came after %s", took)
			}
			return nil, late
		})
		if !errors.Is(err, late) || len(a.calls) != sent {
			t.Errorf("%v, calls %q", err, a.calls)
		}
	})
}

func TestSessionPollEndsWithinItsBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		v.next = func(n int) fault {
			if n > 1 {
				pass(29 * time.Second)
			}
			return noFault
		}
		a := &api{likes: func(string) bool { pass(20 * time.Second); return false }}
		s := session(t, v, a, store)
		var announced time.Time
		_, err := s.Poll(t.Context(), testSubscription, func(context.Context) error {
			announced = time.Now()
			return nil
		})
		if err == nil {
			t.Fatal("no error")
		}
		if took := time.Since(announced); took > s.client.PollBound() || took < 30*time.Second {
			t.Errorf("ended %s after the announcement", took)
		}
		if len(a.calls) != 1 {
			t.Errorf("calls %q", a.calls)
		}
	})
}

func TestEnsureSubscription(t *testing.T) {
	t.Parallel()
	const list = `[{"SubscriptionId":"` + otherUUID + `","Topic":{"TopicCode":"ASSESSMENT"}},
		{"SubscriptionId":"none","Topic":{"TopicCode":"PARTS.ORDER"}},
		{"SubscriptionId":"` + testSubscription + `","Topic":{"TopicCode":"parts.order"}}]`
	for _, tt := range []struct {
		name       string
		post, get  int
		list       string
		id         string
		adopted    bool
		outcome    Outcome
		totalCalls int
	}{
		{"new", 200, 0, "", testSubscription, false, Done, 1},
		{"adopted", 409, 200, list, testSubscription, true, Done, 2},
		{"not listed", 409, 204, "", "", false, Conflict, 2},
		{"list fails", 409, 503, "", "", false, Unavailable, 2},
		{"no such topic", 404, 204, "", "", false, NotFound, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			a := &api{likes: func(string) bool { return true }}
			a.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					answering(tt.post, `{"SubscriptionId":"`+testSubscription+`"}`)(w, r)
					return
				}
				answering(tt.get, tt.list)(w, r)
			}
			s := session(t, v, a, store)
			sub, adopted, err := s.EnsureSubscription(t.Context(), "PARTS.ORDER")
			id := sub.SubscriptionID
			if id != tt.id || adopted != tt.adopted || OutcomeOf(err) != tt.outcome || len(a.calls) != tt.totalCalls {
				t.Errorf("%s: %q, %v, %v, calls %q", tt.name, id, adopted, err, a.calls)
			}
		})
	}
}

func TestSessionPassesEveryCallOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		a := &api{likes: func(string) bool { return true }}
		a.answer = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/whoami"):
				_, _ = io.WriteString(w, `"me"`)
			case strings.HasSuffix(r.URL.Path, "/topics"):
				_, _ = io.WriteString(w, `[{"TopicCode":"PARTS.ORDER"}]`)
			case strings.Contains(r.URL.Path, "/assessments/"):
				_, _ = io.WriteString(w, `"`+testOrder+`"`)
			default:
				w.WriteHeader(204)
			}
		}
		s := session(t, v, a, store)
		if who, err := s.Whoami(t.Context()); who != "me" || err != nil {
			t.Errorf("%q, %v", who, err)
		}
		if topics, err := s.Topics(t.Context()); len(topics) != 1 || err != nil {
			t.Errorf("%v, %v", topics, err)
		}
		if id, err := s.AssessmentID(t.Context(), "o", "1"); id != testOrder || err != nil {
			t.Errorf("%q, %v", id, err)
		}
		if err := s.Unsubscribe(t.Context(), testSubscription); err != nil {
			t.Error(err)
		}
		if subs, err := s.Subscriptions(t.Context()); len(subs) != 0 || err != nil {
			t.Errorf("%v, %v", subs, err)
		}
	})
}

// A call that waited behind others for longer than its token lives spends no request on a 401: its
// turn is given back, and it is made with a token that is good.
func TestATokenThatEndsWhileACallWaitsIsNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
		const first = "access-1"
		a := &api{
			likes:  func(token string) bool { return token != first },
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[]`) },
		}
		s := session(t, v, a, store)
		s.client.budget = NewBudget(1)
		s.client.circuit = s.client.budget.circuit("vendor.test", NewMetrics(nil), quiet)
		for range 40 { // of other connections, ahead of it
			go func() { _ = s.client.budget.Wait(t.Context(), PriorityExchange, "york") }()
		}
		synctest.Wait()
		announced := 0
		start := time.Now()
		if _, err := s.Poll(t.Context(), testSubscription,
			func(context.Context) error { announced++; return nil }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 30*time.Minute {
			t.Fatalf("its turn came after %s, within the life of its token", took)
		}
		if len(a.calls) != 1 || !strings.HasSuffix(a.calls[0], " access-2") || announced != 1 {
			t.Errorf("announced %d times, calls %q", announced, a.calls)
		}
	})
}
