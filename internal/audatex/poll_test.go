package audatex

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// cut responds with a page whose connection ends after the given part.
func cut(part string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = buf.WriteString(part)
		_ = buf.Flush()
	}
}

func TestPollReturnsWhatACutAnswerCarried(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCorrelation-Id: " + testCorrelation + "\r\n"
	for name, part := range map[string]string{
		"by length": head + "Content-Length: 500\r\n\r\n" + `[{"NotificationId":"1"},{"Noti`,
		"by chunk":  head + "Transfer-Encoding: chunked\r\n\r\n1e\r\n" + `[{"NotificationId":"1"},{"Noti` + "\r\n",
	} {
		c := vendor(t, Config{}, cut(part))
		page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		e := outcomeIs(t, err, Unavailable)
		if string(page.Body) != `[{"NotificationId":"1"},{"Noti` || !page.Truncated || !page.Carried() ||
			page.ReceivedAt.IsZero() {
			t.Errorf("%s: page %q, truncated %v", name, page.Body, page.Truncated)
		}
		if !e.AnswerLost || e.CorrelationID != testCorrelation || page.CorrelationID != testCorrelation {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// A GET on a kept connection that dies before its response is repeated by net/http without a word.
// For a poll that would lose a page unseen.
func TestPollIsNeverRepeatedUnseen(t *testing.T) {
	t.Parallel()
	var polls atomic.Int32
	c := vendor(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		if polls.Add(1)%2 == 0 {
			cut("")(w, r)
			return
		}
		_, _ = io.WriteString(w, "[]")
	})
	for i := range 6 {
		_, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		if want := int32(i + 1); polls.Load() != want {
			t.Fatalf("%d polls reached the vendor, %d were made", polls.Load(), want)
		}
		if i%2 == 0 {
			outcomeIs(t, err, Done)
		} else if e := outcomeIs(t, err, Unavailable); !e.AnswerLost {
			t.Error("a lost answer is not said to be lost")
		}
	}
}

func TestNothingIsLostWhenNothingWasSent(t *testing.T) {
	t.Parallel()
	c, err := New(Config{BaseURL: "http://vendor.test",
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
	if e := outcomeIs(t, err, Unavailable); e.AnswerLost || e.Status != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%+v", e)
	}
}

func TestMalformedPageIsReturned(t *testing.T) {
	t.Parallel()
	const page = "<html>Down for maintenance</html>"
	c := vendor(t, Config{}, answering(200, page))
	got, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
	outcomeIs(t, err, Malformed)
	if string(got.Body) != page || got.Truncated || !got.Carried() {
		t.Errorf("page %q", got.Body)
	}
}

func TestPageCarried(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		"": false, " \n": false, "[]": false, " [ ] ": false, "null": false, "\xef\xbb\xbf[]": false,
		"[{}]": true, "{}": true, "[": true, "x": true, "[null]": true,
	} {
		if got := (Page{Body: []byte(body)}).Carried(); got != want {
			t.Errorf("%q carried %v", body, got)
		}
	}
}

func TestPollAnnouncesAfterTheBudgetAndSendsNothingIfThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var polls atomic.Int32
		dial := serveInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			polls.Add(1)
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(429)
		}))
		c, err := New(Config{BaseURL: "http://vendor.test", DialContext: dial, Budget: NewBudget(100)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		refused := errors.New("store is full")
		_, err = c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription,
			func(context.Context) error { return refused })
		if !errors.Is(err, refused) || polls.Load() != 0 {
			t.Errorf("%d polls, %v", polls.Load(), err)
		}
		_, err = c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		if e := outcomeIs(t, err, Throttled); e.RetryAfter != time.Minute {
			t.Errorf("retry after %s", e.RetryAfter)
		}
		start := time.Now()
		var announcedAfter time.Duration
		_, _ = c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, func(context.Context) error {
			announcedAfter = time.Since(start)
			return nil
		})
		if announcedAfter != time.Minute {
			t.Errorf("announced after %s: an intent must not wait for the budget", announcedAfter)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Whoami(ctx, testToken)
		if e := outcomeIs(t, err, Throttled); e.RetryAfter != 59*time.Second || e.Status != 0 || e.AnswerLost {
			t.Errorf("%+v", e)
		}
	})
}
