package audatex

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/relay"
)

// moody is a vendor's host whose responses a test can change. It remembers the requests.
type moody struct {
	mu     sync.Mutex
	status int
	asked  []asked
}

type asked struct {
	path string
	at   time.Time
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, asked{strings.TrimPrefix(r.URL.Path, apiPath), time.Now()})
	w.WriteHeader(m.status)
	if m.status == http.StatusOK {
		_, _ = w.Write([]byte(`["it is me"]`))
	}
}

func (m *moody) answers(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

func (m *moody) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asked)
}

// moodyClient returns a client of a host in memory, one for each of some connections.
func moodyClient(t *testing.T, m *moody, cfg Config) func(connection int) *Client {
	cfg.BaseURL, cfg.DialContext = "http://vendor.test", serveInMemory(t, m)
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return func(connection int) *Client { return c.inTurn(turn{connection: fmt.Sprint("site-", connection)}) }
}

func order(t *testing.T, c *Client) error {
	_, err := c.Order(t.Context(), testToken, testOrder, nil)
	return err
}

// TestAHostThatAnswersNobodyIsProbed: after failures of several connections nothing but a probe at
// a time is sent, ever more seldom; the first response lets everybody through. The metric and one
// line each show it.
func TestAHostThatAnswersNobodyIsProbed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &moody{status: http.StatusBadGateway}
		var lines logBuffer
		metrics := NewMetrics(prometheus.NewPedanticRegistry())
		client := moodyClient(t, m, Config{Metrics: metrics, Logger: lines.logger()})
		open := func() float64 { return testutil.ToFloat64(circuitCollector{metrics}) }
		for i := range openFailures {
			if NotAsked(order(t, client(i))) {
				t.Fatalf("refused after %d failures", i)
			}
		}
		if open() != 1 {
			t.Fatal("the circuit is closed")
		}
		pass(shownFor) // nobody asks here any more
		if n := testutil.CollectAndCount(circuitCollector{metrics}) +
			testutil.CollectAndCount(skewCollector{metrics}); n != 0 {
			t.Error("what was known of the vendor is still shown")
		}
		probed := m.count()
		for began := time.Now(); time.Since(began) < 30*time.Minute; pass(time.Second) {
			for i := range 20 { // everybody wants to ask
				if err := order(t, client(i)); !NotAsked(err) && OutcomeOf(err) != Unavailable {
					t.Fatal(err)
				}
			}
		}
		probes := m.asked[probed:]
		if len(probes) < 25 || len(probes) > 45 {
			t.Errorf("%d probes in half an hour", len(probes))
		}
		for i := range probes[1:] {
			apart, last := probes[i+1].at.Sub(probes[i].at), i == len(probes)-2
			if apart < 4*time.Second || apart > 74*time.Second || last && apart < 45*time.Second {
				t.Errorf("probes %s apart", apart)
			}
		}
		m.answers(http.StatusNotFound) // a word on the order, and so a response of the host
		for began := time.Now(); NotAsked(order(t, client(1))); pass(time.Second) {
			if time.Since(began) > 75*time.Second {
				t.Fatal("still held")
			}
		}
		if open() != 0 {
			t.Error("the circuit is open")
		}
		for i := range 20 {
			if err := order(t, client(i)); OutcomeOf(err) != NotFound {
				t.Error(err)
			}
		}
		for _, line := range []string{"does not answer", "answers again"} {
			if n := strings.Count(lines.String(), line); n != 1 {
				t.Errorf("%q is told %d times", line, n)
			}
		}
	})
}

// TestOneProbeAtATime: while a probe is under way nobody else is let through, and a probe that is
// given up leaves its place.
func TestOneProbeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		c := b.circuit("vendor.test", NewMetrics(nil), quiet)
		enter := func() (*entry, error) { return c.enter(t.Context(), OpOrder, PriorityResolve, "leeds") }
		for i := range openFailures {
			e, err := c.enter(t.Context(), OpOrder, PriorityResolve, fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			e.report(replyFailure, errors.New("502"))
		}
		pass(2 * probeLeast)
		probe, err := enter()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enter(); !NotAsked(err) {
			t.Fatalf("a second probe: %v", err)
		}
		probe.leave()
		if probe, err = enter(); err != nil {
			t.Fatalf("after a probe that was not sent: %v", err)
		}
		if !probe.report(replyWell, nil) {
			t.Error("still open after an answer")
		}
		probe.report(replyFailure, nil) // its end is reported once
		if _, err := enter(); err != nil {
			t.Error(err)
		}
	})
}

// TestTroubleOfOneConnectionIsNobodyElses: refusals of any connections, and failures of two alone,
// hold nothing.
func TestTroubleOfOneConnectionIsNobodyElses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ status, connections int }{
		{http.StatusUnauthorized, 20}, {http.StatusForbidden, 20}, {http.StatusNotFound, 20}, {http.StatusGone, 20},
		{http.StatusBadRequest, 20},
		{http.StatusInternalServerError, 1}, {http.StatusBadGateway, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &moody{status: tt.status}
			client := moodyClient(t, m, Config{})
			for i := range 60 {
				_ = order(t, client(i%tt.connections))
			}
			if m.count() != 60 {
				t.Errorf("%d to %d connections: %d of 60 requests were sent", tt.status, tt.connections, m.count())
			}
		})
	}
}

// TestWhatSaysNothingOfTheHostHoldsNothing: requests that are given up, and those for which this
// machine opens no connection.
func TestWhatSaysNothingOfTheHostHoldsNothing(t *testing.T) {
	t.Parallel()
	given, cancel := context.WithCancel(t.Context())
	cancel()
	gone := &Error{Outcome: Unavailable, err: context.Canceled}
	busy := &Error{Outcome: Unavailable, err: fmt.Errorf("dial: %w", ErrNotDialled)}
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want reply
	}{
		{given, gone, replyNone}, {t.Context(), busy, replyNone}, {t.Context(), gone, replyFailure},
		{t.Context(), nil, replyWell},
		{t.Context(), &Error{Outcome: Throttled, Status: 429}, replyWell},
		{t.Context(), &Error{Outcome: Malformed, Status: 200}, replyWell},
	} {
		if got := replyOf(tt.ctx, tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

// TestAPollIsNoProbe: a poll whose response is lost has taken what it read out of the queue, so
// whoami is asked first.
func TestAPollIsNoProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &moody{status: http.StatusBadGateway}
		client := moodyClient(t, m, Config{})
		for i := range openFailures {
			_ = order(t, client(i))
		}
		poll := func() (announced bool, err error) {
			_, err = client(7).Poll(t.Context(), testToken, relay.LevelSite, testSubscription,
				func(context.Context) error {
					announced = true
					return nil
				})
			return announced, err
		}
		pass(2 * probeLeast)
		if announced, err := poll(); announced || !NotAsked(err) {
			t.Errorf("announced %v, %v", announced, err)
		}
		m.answers(http.StatusOK)
		pass(probeMost)
		if announced, err := poll(); !announced || err != nil {
			t.Errorf("announced %v, %v", announced, err)
		}
		var paths []string
		for _, a := range m.asked[openFailures:] {
			paths = append(paths, a.path[strings.LastIndexByte(a.path, '/'):])
		}
		if got := strings.Join(paths, " "); got != "/whoami /whoami /notifications" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestACodeIsExchangedWhateverTheCircuitSays: it would not live until the next probe. Its response
// closes the circuit. The token endpoint of another host is judged apart from the API.
func TestACodeIsExchangedWhateverTheCircuitSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, v, budget := &moody{status: http.StatusServiceUnavailable}, newTokenVendor(), NewBudget(0)
		client := moodyClient(t, m, Config{Budget: budget})
		records := newTokenMap(leeds, relay.TokenRecord{RefreshToken: relay.NewSecret("refresh-0")})
		same := tokens(t, v, records, func(c *TokensConfig) {
			c.Budget, c.TokenURL = budget, "http://vendor.test/token"
		})
		apart := tokens(t, v, records, func(c *TokensConfig) { c.Budget = budget })
		for i := range openFailures {
			_ = order(t, client(i))
		}
		if _, err := same.Access(t.Context(), leeds); !NotAsked(err) {
			t.Errorf("a refresh at the host that does not answer: %v", err)
		}
		if _, err := apart.Access(t.Context(), leeds); err != nil {
			t.Errorf("a refresh at the other host: %v", err)
		}
		if !NotAsked(order(t, client(9))) {
			t.Error("the other host's answer has closed the circuit")
		}
		before, _ := v.count()
		_, _ = same.ExchangeCode(t.Context(), Code{Code: "code", RedirectURI: "https://relay.test/oauth/callback"})
		if after, _ := v.count(); after != before+1 {
			t.Error("the code was not exchanged")
		}
		m.answers(http.StatusOK)
		if err := order(t, client(9)); NotAsked(err) {
			t.Error("the host has answered, and requests are held")
		}
	})
}
