package sandbox_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

func (v *vendor) faults(f ...sandbox.Faults) {
	v.t.Helper()
	if err := v.SetFaults(f...); err != nil {
		v.t.Fatal(err)
	}
}

func TestRefusalsDoNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		faults     sandbox.Faults
		status     int
		body       string
		retryAfter string
	}{
		{"500", sandbox.Faults{Share500: 1, RetryAfter: time.Second}, 500, "An error has occurred.", ""},
		{"429", sandbox.Faults{Share429: 1}, 429, "API calls quota exceeded.", ""},
		{"429 with a time", sandbox.Faults{Share429: 1, RetryAfter: 1500 * time.Millisecond}, 429,
			"API calls quota exceeded.", "2"},
		{"503", sandbox.Faults{Share503: 1}, 503, "The service is unavailable.", ""},
		{"503 with a time", sandbox.Faults{Share503: 1, RetryAfter: time.Minute}, 503,
			"The service is unavailable.", "60"},
	} {
		v := start(t, sandbox.Config{Tame: true})
		token := v.site("4711")
		sub := v.subscribe(sandbox.Site, token)
		v.create("4711", sandbox.OrderOptions{})
		v.faults(row.faults)
		got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token)
		if got.status != row.status || got.body != row.body || got.header.Get("Retry-After") != row.retryAfter ||
			got.header.Get("Content-Type") != "text/plain; charset=utf-8" ||
			!uuid.MatchString(got.header.Get("Correlation-Id")) {
			t.Errorf("%s: %d %q Retry-After %q", row.name, got.status, got.body, got.header.Get("Retry-After"))
		}
		// Tokens and the control API are left alone unless asked for.
		v.site("4712")
		v.faults()
		if got := v.poll(sandbox.Site, token, sub); len(got) != 1 {
			t.Errorf("%s: the notification is gone", row.name)
		}
	}
}

func TestRetryAfterComesInBothSpellings(t *testing.T) {
	t.Parallel()
	clock := newClock(time.Date(2026, 1, 15, 9, 30, 0, 1, time.UTC))
	v := start(t, sandbox.Config{Now: clock.now})
	v.faults(sandbox.Faults{Share429: 1, RetryAfter: 10 * time.Second})
	seen := map[string]int{}
	for range 60 {
		seen[v.do("GET", api+"/whoami", "").header.Get("Retry-After")]++
	}
	if len(seen) != 2 || seen["10"] == 0 || seen["Thu, 15 Jan 2026 09:30:11 GMT"] == 0 {
		t.Errorf("Retry-After values: %v", seen)
	}
}

func TestCutBeforeAnythingWasDone(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	v.create("4711", sandbox.OrderOptions{})
	v.faults(sandbox.Faults{ShareCut: 1})
	if got, err := v.try("GET", api+"/site/subscriptions/"+sub+"/notifications", token, http.Header{"X-Once": {"1"}},
		""); err == nil {
		t.Fatalf("the connection was to be cut: %+v", got)
	}
	v.faults()
	if got := v.poll(sandbox.Site, token, sub); len(got) != 1 {
		t.Error("the notification is gone")
	}
	c := v.Counters()
	if c.NotificationsLost != 0 || c.Faults["cut"] == 0 || c.Statuses[0] != c.Faults["cut"] {
		t.Errorf("counters %+v", c)
	}
}

func TestCutAnswersLoseTheirPage(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{PageSize: 2})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	var lost []string
	ends := map[bool]int{}
	v.faults(sandbox.Faults{ShareCutAfterRead: 1, Operations: []sandbox.Operation{sandbox.OpPoll}})
	// A client would repeat a GET on a connection that died before the first
	// byte; each of these uses its own, so that one call is one poll.
	v.transport.DisableKeepAlives = true
	for range 20 {
		for range 3 { // a full page, and one that stays
			lost = append(lost, v.create("4711", sandbox.OrderOptions{}).ID)
		}
		for range 2 {
			got, err := v.try("GET", api+"/site/subscriptions/"+sub+"/notifications", token, nil, "")
			if err == nil {
				t.Fatalf("the answer was to be cut: %+v", got)
			}
			if half := got.status == 200; half && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("an answer cut in the middle: %v", err)
			}
			ends[got.status == 200]++
		}
	}
	v.faults()
	if ends[true] == 0 || ends[false] == 0 {
		t.Errorf("cut in the middle %d times, before the first byte %d times", ends[true], ends[false])
	}
	if got := v.poll(sandbox.Site, token, sub); len(got) != 0 {
		t.Errorf("what was cut came again: %+v", got)
	}
	c := v.Counters()
	if c.NotificationsHandedOut != 60 || c.NotificationsLost != 60 || c.PagesLost != 40 || c.PagesFull != 20 ||
		c.Faults["cutAfterRead"] != 40 {
		t.Errorf("counters %+v", c)
	}
	if !slices.Equal(v.LostOrders(), lost) {
		t.Errorf("lost orders %v\nwant %v", v.LostOrders(), lost)
	}
	for _, o := range v.Ledger().Orders {
		if n := o.Notifications[0]; !n.Lost || n.HandedOutAt.IsZero() || !uuid.MatchString(n.CorrelationID) {
			t.Errorf("ledger %+v", n)
		}
	}
}

func TestCutTokenAnswerSpendsTheToken(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	g, err := v.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		t.Fatal(err)
	}
	v.faults(sandbox.Faults{ShareCutAfterRead: 1, Paths: []string{sandbox.TokenPath}})
	form := "grant_type=refresh_token&client_id=sandbox-client&client_secret=sandbox-secret&refresh_token=" +
		g.RefreshToken
	if got, err := v.try("POST", sandbox.TokenPath, "", formHeader(), form); err == nil {
		t.Fatalf("the answer was to be cut: %+v", got)
	}
	v.faults()
	if status, got := v.refresh(g.RefreshToken); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("using it again: %d %+v", status, got)
	}
	c := v.Counters()
	if of := c.Grants[g.ID]; c.TokensLost != 1 || of.TokensLost != 1 || of.SpentRefreshTokens != 1 ||
		of.TokenRefreshes != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestTheFirstFaultThatChoosesDecides(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	o := v.create("4711", sandbox.OrderOptions{})
	v.faults(
		sandbox.Faults{Share503: 1, Operations: []sandbox.Operation{sandbox.OpReadOrder}},
		sandbox.Faults{Operations: []sandbox.Operation{sandbox.OpTopics}}, // spared
		sandbox.Faults{Share500: 1, Paths: []string{api + "/"}},
	)
	for path, want := range map[string]int{"/partsorders/" + o.ID: 503, "/topics": 200, "/whoami": 500} {
		if got := v.do("GET", api+path, token); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
}

func TestSharesAreKept(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Seed: 3})
	token := v.site("4711")
	v.faults(sandbox.Faults{Share500: 0.2, Share429: 0.1, Share503: 0.1})
	const n = 2000
	got := map[int]float64{}
	for range n {
		got[v.do("GET", api+"/whoami", token).status]++
	}
	for status, share := range map[int]float64{200: 0.6, 500: 0.2, 429: 0.1, 503: 0.1} {
		if math.Abs(got[status]/n-share) > 0.03 {
			t.Errorf("%d: a share of %v, want %v", status, got[status]/n, share)
		}
	}
	c := v.Counters()
	for _, status := range []int{500, 429, 503} {
		if drawn := c.Faults[strconv.Itoa(status)]; drawn != int64(got[status]) || c.Statuses[status] != drawn {
			t.Errorf("%d: counted %d drawn, %d sent, got %v", status, drawn, c.Statuses[status], got[status])
		}
	}
}

// A caller who gives up while the vendor is slow has lost the page all the same,
// and a poll sent meanwhile is seen as overlapping.
func TestGivingUpOnASlowPoll(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	g, token := v.login(sandbox.Consent{Sites: []string{"4711"}})
	sub := v.subscribe(sandbox.Site, token)
	o := v.create("4711", sandbox.OrderOptions{})
	v.faults(sandbox.Faults{ShareLatency: 1, Latency: time.Hour})

	ctx, giveUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	r, err := http.NewRequestWithContext(ctx, "GET", v.url+api+"/site/subscriptions/"+sub+"/notifications", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	go func() {
		resp, err := v.client.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		done <- err
	}()
	eventually(t, "the slow poll begins", func() bool { return v.Counters().Requests[sandbox.OpPoll] == 1 })
	v.faults()
	v.QueueRaw("4712", nil) // nothing of ours
	if got := v.do("GET", api+"/site/subscriptions/00000000-0000-4000-8000-000000000000/notifications",
		token); got.status != 404 {
		t.Fatalf("a poll in between: %d", got.status)
	}
	if c := v.Counters(); c.PollsOverlapping != 1 || c.Grants[g.ID].PollsOverlapping != 1 ||
		c.NotificationsHandedOut != 0 {
		t.Errorf("counters %+v", c)
	}
	giveUp()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("the slow poll: %v", err)
	}
	eventually(t, "the page is lost", func() bool { return v.Counters().NotificationsLost == 1 })
	if !slices.Equal(v.LostOrders(), []string{o.ID}) {
		t.Errorf("lost orders %v", v.LostOrders())
	}
	v.poll(sandbox.Site, token, sub)
	if c := v.Counters(); c.PollsOverlapping != 1 || c.Grants[g.ID].Polls != 3 {
		t.Errorf("the slow poll has ended, but the next one was counted as overlapping: %+v", c)
	}
}

func TestFaultsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := sandbox.New(sandbox.Config{})
	if err := s.SetFaults(sandbox.Faults{Share500: 0.5, ShareCut: 0.5}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []sandbox.Faults{
		{Share500: 1.1}, {ShareCut: -0.1}, {Share429: math.NaN()}, {ShareLatency: 2}, {Share500: 0.6, Share503: 0.6},
		{Latency: -1}, {Operations: []sandbox.Operation{"nap"}},
	} {
		if err := s.SetFaults(f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	if got := s.Faults(); len(got) != 1 || got[0].ShareCut != 0.5 {
		t.Errorf("a refused fault changed something: %+v", got)
	}
}
