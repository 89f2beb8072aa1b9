package audatex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestRequestsOnTheWire(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	status, answer := 200, ""
	c := vendor(t, Config{UserAgent: "audatex-relay/1.2.3"}, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
	ctx := t.Context()
	const base = "/AudaAPI.BMSAPI/v1/bmsapi"
	for _, tt := range []struct {
		uri, method string
		status      int
		answer      string
		call        func() error
	}{
		{base + "/whoami", "GET", 200, `"JBLOGGS"`, func() error {
			who, err := c.Whoami(ctx, testToken)
			if who != "JBLOGGS" {
				return fmt.Errorf("who is %q: %w", who, err)
			}
			return err
		}},
		{base + "/topics", "GET", 200, `[{"TopicCode":"PARTS.ORDER","Description":"Orders","New":1}]`, func() error {
			topics, err := c.Topics(ctx, testToken)
			if len(topics) != 1 || topics[0] != (TopicInfo{"PARTS.ORDER", "Orders"}) {
				return fmt.Errorf("topics %v: %w", topics, err)
			}
			return err
		}},
		{base + "/site/subscriptions", "GET", 204, "", func() error {
			subs, err := c.Subscriptions(ctx, testToken, relay.LevelSite)
			if len(subs) != 0 {
				return fmt.Errorf("subscriptions %v: %w", subs, err)
			}
			return err
		}},
		{base + "/user/subscriptions", "GET", 200,
			"\xef\xbb\xbf" + `[{"SubscriptionId":"` + testSubscription +
				`","Topic":{"TopicCode":"PARTS.ORDER"},"CreatedAt":"2016-01-15T09:38:44.6871504","Push":null}]`,
			func() error {
				subs, err := c.Subscriptions(ctx, testToken, relay.LevelUser)
				if len(subs) != 1 || subs[0].SubscriptionID != testSubscription ||
					subs[0].Topic.TopicCode != "PARTS.ORDER" {
					return fmt.Errorf("subscriptions %v: %w", subs, err)
				}
				return err
			}},
		{base + "/company/subscriptions?topicCode=PARTS.ORDER", "POST", 200,
			`{"SubscriptionId":"` + testSubscription + `"}`,
			func() error {
				id, err := c.Subscribe(ctx, testToken, relay.LevelCompany, "PARTS.ORDER")
				if id != testSubscription {
					return fmt.Errorf("id %q: %w", id, err)
				}
				return err
			}},
		{base + "/site/subscriptions?topicCode=A%26b%3D%2F", "POST", 200,
			`{"SubscriptionId":"` + testSubscription + `"}`,
			func() error {
				_, err := c.Subscribe(ctx, testToken, relay.LevelSite, "A&b=/")
				return err
			}},
		{base + "/site/subscriptions/" + testSubscription, "DELETE", 204, "", func() error {
			return c.Unsubscribe(ctx, testToken, relay.LevelSite, testSubscription)
		}},
		{base + "/site/subscriptions/" + testSubscription + "/notifications", "GET", 200, `[{}]`, func() error {
			page, err := c.Poll(ctx, testToken, relay.LevelSite, testSubscription, nil)
			if string(page.Body) != `[{}]` || page.Truncated || page.ReceivedAt.IsZero() {
				return fmt.Errorf("page %v: %w", page, err)
			}
			return err
		}},
		{base + "/partsorders/" + testOrder, "GET", 200, `[{"PartsOrderId":"` + strings.ToUpper(testOrder) + `"}]`,
			func() error {
				o, err := c.Order(ctx, testToken, "{"+strings.ToUpper(testOrder)+"}", nil)
				if o.ID != testOrder || o.ReadAt.IsZero() {
					return fmt.Errorf("order %v: %w", o, err)
				}
				return err
			}},
		{base + "/assessments/originator/A%2Fb/assessments/1%3F%232", "GET", 200,
			`"` + testSubscription + `"`, func() error {
				id, err := c.AssessmentID(ctx, testToken, "A/b", "1?#2")
				if id != strings.ToLower(testSubscription) {
					return fmt.Errorf("id %q: %w", id, err)
				}
				return err
			}},
	} {
		status, answer = tt.status, tt.answer
		if err := tt.call(); err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.uri, err)
			continue
		}
		if got.RequestURI != tt.uri || got.Method != tt.method {
			t.Errorf("asked %s %s, want %s %s", got.Method, got.RequestURI, tt.method, tt.uri)
		}
		if len(body) != 0 || got.ContentLength != 0 || len(got.TransferEncoding) != 0 {
			t.Errorf("%s %s: body of %d bytes, length %d, %v", tt.method, tt.uri, len(body), got.ContentLength,
				got.TransferEncoding)
		}
		if tt.method == "POST" && got.Header.Get("Content-Length") != "0" {
			t.Errorf("%s: an empty POST without Content-Length is answered 411 by IIS", tt.uri)
		}
		for k, want := range map[string]string{
			"Accept": "application/json", "User-Agent": "audatex-relay/1.2.3",
			"Authorization": "Bearer " + testToken.Reveal(), "Accept-Encoding": "identity",
		} {
			if got.Header.Get(k) != want {
				t.Errorf("%s: %s is %q, want %q", tt.uri, k, got.Header.Get(k), want)
			}
		}
	}
}

func TestStatusesBecomeOutcomes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]Outcome{
		400: Malformed, 401: Unauthorised, 403: Forbidden, 404: NotFound, 405: Malformed, 407: Unavailable,
		408: Unavailable, 409: Conflict, 410: NotFound, 415: Malformed, 429: Throttled, 500: Unavailable,
		502: Unavailable, 503: Unavailable, 504: Unavailable, 301: Unavailable, 302: Unavailable, 307: Unavailable,
		304: Malformed,
	} {
		c := vendor(t, Config{}, answering(status, "Sorry,\r\n no.", "Retry-After", "3"))
		_, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		e := outcomeIs(t, err, want)
		if e.Status != status || e.CorrelationID != testCorrelation || e.Operation != OpPoll {
			t.Errorf("%d: %+v", status, e)
		}
		if status != 304 && e.Message != "Sorry, no." {
			t.Errorf("%d: message %q", status, e.Message)
		}
		if wantAfter := status == 429 || status == 503; (e.RetryAfter == 3*time.Second) != wantAfter {
			t.Errorf("%d: retry after %s", status, e.RetryAfter)
		}
		if wantLost := status == 502 || status == 504; e.AnswerLost != wantLost {
			t.Errorf("%d: answer lost is %v", status, e.AnswerLost)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	t.Cleanup(other.Close)
	c := vendor(t, Config{}, answering(302, "moved", "Location", other.URL+"/login?session=hush-hush"))
	_, err := c.Whoami(t.Context(), testToken)
	e := outcomeIs(t, err, Unavailable)
	if e.Message != "redirects to "+other.URL+"/login" {
		t.Errorf("message %q", e.Message)
	}
	if followed.Load() != 0 {
		t.Error("redirect was followed, with the token")
	}
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	c := vendor(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `["`)
		chunk := strings.Repeat("x", 64<<10)
		for i := 0; i < 9<<20; i += len(chunk) {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	})
	_, err := c.Whoami(t.Context(), testToken)
	outcomeIs(t, err, TooLarge)
	_, err = c.Order(t.Context(), testToken, testOrder, nil)
	outcomeIs(t, err, TooLarge)
	whole := `{"PartsOrderId":"` + testOrder + `","Remark":"` + strings.Repeat("z", 2<<20) + `"}`
	// what the store takes decides
	for most, want := range map[int]Outcome{len(whole): Done, len(whole) - 1: TooLarge} {
		c := vendor(t, Config{MaxOrder: func() int { return most }},
			answering(200, whole, "Content-Type", "application/json"))
		order, err := c.Order(t.Context(), testToken, testOrder, nil)
		if OutcomeOf(err) != want || want == Done && string(order.JSON) != whole {
			t.Errorf("an order of %d bytes where %d are of use: %d bytes, %v", len(whole), most, len(order.JSON), err)
		}
	}
	page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
	e := outcomeIs(t, err, TooLarge)
	if len(page.Body) != maxPageBody || !page.Truncated || !page.Carried() || !e.AnswerLost {
		t.Errorf("page of %d bytes, truncated %v, lost %v", len(page.Body), page.Truncated, e.AnswerLost)
	}
	failing := vendor(t, Config{}, answering(500, strings.Repeat("y", 1<<20)))
	_, err = failing.Whoami(t.Context(), testToken)
	if e := outcomeIs(t, err, Unavailable); len(e.Message) != maxMessage {
		t.Errorf("message of %d characters", len(e.Message))
	}
}

func TestCallsHaveADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dial := serveInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_, _ = io.WriteString(w, `[{"Topic":`)
			_ = http.NewResponseController(w).Flush()
			<-release
		}))
		c, err := New(Config{BaseURL: "http://vendor.test", DialContext: dial})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		announced := false
		page, err := c.Poll(ctx, testToken, relay.LevelSite, testSubscription, func(context.Context) error {
			announced = true
			time.AfterFunc(time.Second, cancel) // the caller's end does not cut an announced poll
			return nil
		})
		e := outcomeIs(t, err, Unavailable)
		if took := time.Since(start); took != 30*time.Second || !announced {
			t.Errorf("took %s, announced %v", took, announced)
		}
		if string(page.Body) != `[{"Topic":` || !e.AnswerLost || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("page %q, %v", page.Body, err)
		}
		start = time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Whoami(ctx, testToken)
		outcomeIs(t, err, Unavailable)
		if took := time.Since(start); took != time.Second {
			t.Errorf("whoami ended %s after its context", took)
		}
		close(release)
		c.Close()
	})
}

func TestArgumentsThatAreNoIDsAreNotSent(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	c := vendor(t, Config{}, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	ctx := t.Context()
	for _, id := range []string{"", "..", "../whoami", "x", testOrder + "/..", "00000000-0000-0000-0000-000000000000"} {
		_, err := c.Poll(ctx, testToken, relay.LevelSite, id, nil)
		outcomeIs(t, err, NotFound)
		outcomeIs(t, c.Unsubscribe(ctx, testToken, relay.LevelSite, id), NotFound)
		_, err = c.Order(ctx, testToken, id, nil)
		outcomeIs(t, err, NotFound)
	}
	for _, arg := range []string{"", ".", ".."} {
		_, err := c.AssessmentID(ctx, testToken, arg, "1")
		outcomeIs(t, err, NotFound)
		_, err = c.AssessmentID(ctx, testToken, "1", arg)
		outcomeIs(t, err, NotFound)
	}
	if asked.Load() != 0 {
		t.Errorf("%d requests were sent", asked.Load())
	}
}

func TestUnusableAnswersAreMalformed(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"<xml/>", `{"a":1}`, `["a"`, `12`, `"a" "b"`, ``, `null`} {
		c := vendor(t, Config{}, answering(200, body))
		ctx := t.Context()
		_, err := c.Whoami(ctx, testToken)
		outcomeIs(t, err, Malformed)
		_, err = c.Subscribe(ctx, testToken, relay.LevelSite, "PARTS.ORDER")
		outcomeIs(t, err, Malformed)
		_, err = c.AssessmentID(ctx, testToken, "a", "1")
		if e := outcomeIs(t, err, Malformed); e.CorrelationID != testCorrelation {
			t.Errorf("%q: no correlation id in %v", body, err)
		}
	}
}

func TestBadBaseURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "ftp://x", "//x", "http://", "https://user:hush-hush@x/", "https://x/?a=b",
		"https://x/#f", "http://[::1", "x"} {
		_, err := New(Config{BaseURL: u})
		if err == nil || strings.Contains(err.Error(), "hush-hush") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestBadProxySettingIsNotQuoted(t *testing.T) {
	t.Parallel()
	to := &url.URL{Scheme: "https", Host: "vendor.test"}
	err := checkProxy(func(*http.Request) (*url.URL,
		error) {
		return nil, errors.New("invalid proxy address hush-hush")
	}, to)
	if err == nil || strings.Contains(err.Error(), "hush-hush") || !strings.Contains(err.Error(), "HTTPS_PROXY") {
		t.Errorf("%v", err)
	}
	if err := checkProxy(http.ProxyURL(to), to); err != nil {
		t.Error(err)
	}
}

func TestCallsAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	var log logBuffer
	c := vendor(t, Config{Metrics: NewMetrics(reg), Logger: log.logger()}, answering(404, "No "+testToken.Reveal()))
	_, err := c.Order(t.Context(), testToken, testOrder, nil)
	outcomeIs(t, err, NotFound)
	const want = `
# HELP audatex_relay_vendor_requests_total Requests to the vendor's API by operation and outcome.
# TYPE audatex_relay_vendor_requests_total counter
audatex_relay_vendor_requests_total{operation="order",outcome="not-found"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"audatex_relay_vendor_requests_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "audatex_relay_vendor_request_duration_seconds"); n != 1 || err != nil {
		t.Errorf("%d durations, %v", n, err)
	}
	if problems, err := testutil.GatherAndLint(reg); len(problems) > 0 || err != nil {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	out := log.String() + err.Error()
	if !strings.Contains(out, "correlation_id="+testCorrelation) || strings.Contains(out, testToken.Reveal()) {
		t.Errorf("log and error: %s", out)
	}
}
