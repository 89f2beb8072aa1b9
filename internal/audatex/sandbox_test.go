package audatex_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// records is a token store in memory.
type records struct {
	mu  sync.Mutex
	rec map[string]relay.TokenRecord
	rev map[string]uint64
}

func (r *records) Token(_ context.Context, connection string) (relay.TokenRecord, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.rec[connection]
	if !ok {
		return rec, 0, relay.ErrNoToken
	}
	return rec, r.rev[connection], nil
}

func (r *records) SaveToken(
	_ context.Context, connection string, rec relay.TokenRecord, revision uint64,
) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rev[connection] != revision {
		return 0, relay.ErrTokenChanged
	}
	r.rec[connection] = rec
	r.rev[connection]++
	return r.rev[connection], nil
}

// relayed is a client with its tokens, against a sandbox.
type relayed struct {
	box     *sandbox.Sandbox
	client  *audatex.Client
	tokens  *audatex.Tokens
	records *records
	log     *lockedBuffer
}

func against(t *testing.T, cfg sandbox.Config, style audatex.AuthStyle) *relayed {
	t.Helper()
	box := sandbox.New(cfg)
	srv := httptest.NewServer(box.Handler())
	t.Cleanup(srv.Close)
	r := &relayed{box: box, log: new(lockedBuffer),
		records: &records{rec: map[string]relay.TokenRecord{}, rev: map[string]uint64{}}}
	logger := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	budget := audatex.NewBudget(0)
	var err error
	r.client, err = audatex.New(audatex.Config{BaseURL: srv.URL + sandbox.APIPath, Budget: budget, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	r.tokens, err = audatex.NewTokens(audatex.TokensConfig{
		TokenURL: srv.URL + sandbox.TokenPath, ClientID: "sandbox-client",
		ClientSecret: relay.NewSecret("sandbox-secret"), AuthStyle: style, Store: r.records, Exclusive: true,
		Budget: budget, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.tokens.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// connect gives a consent and binds a session to it.
func (r *relayed) connect(
	t *testing.T, name string, level relay.Level, sites ...string,
) (*audatex.Session, sandbox.Grant) {
	t.Helper()
	grant, err := r.box.Grant(sandbox.Consent{Level: sandbox.Level(level), Sites: sites})
	if err != nil {
		t.Fatal(err)
	}
	r.records.mu.Lock()
	r.records.rec[name] = relay.TokenRecord{RefreshToken: relay.NewSecret(grant.RefreshToken)}
	r.records.rev[name]++
	r.records.mu.Unlock()
	return audatex.NewSession(r.client, r.tokens, name, level), grant
}

// poll empties the queue.
func poll(t *testing.T, s *audatex.Session, subscription string) []audatex.Notification {
	t.Helper()
	var all []audatex.Notification
	for {
		page, err := s.Poll(t.Context(), subscription, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := audatex.ParsePage(page.Body)
		if err != nil || page.Truncated || page.Carried() != (len(list) > 0) || page.CorrelationID == "" {
			t.Fatalf("page %+v: %v", page, err)
		}
		all = append(all, list...)
		if len(list) < audatex.PageLimit {
			return all
		}
	}
}

func TestEveryLevelAgainstTheSandbox(t *testing.T) {
	t.Parallel()
	for _, level := range []relay.Level{relay.LevelSite, relay.LevelCompany, relay.LevelUser} {
		for _, style := range []audatex.AuthStyle{audatex.AuthForm, audatex.AuthBasic} {
			r := against(t, sandbox.Config{Seed: 7}, style)
			s, _ := r.connect(t, "leeds", level, "4711")
			ctx := t.Context()
			if who, err := s.Whoami(ctx); who == "" || err != nil {
				t.Fatalf("%s: %q, %v", level, who, err)
			}
			topics, err := s.Topics(ctx)
			if err != nil || !slices.ContainsFunc(topics,
				func(ti audatex.TopicInfo) bool { return ti.TopicCode == "PARTS.ORDER" }) {
				t.Fatalf("%s: topics %v, %v", level, topics, err)
			}
			if subs, err := s.Subscriptions(ctx); len(subs) != 0 || err != nil {
				t.Fatalf("%s: subscriptions %v, %v", level, subs, err)
			}
			sub, adopted, err := s.EnsureSubscription(ctx, "PARTS.ORDER")
			id := sub.SubscriptionID
			if id == "" || adopted || err != nil {
				t.Fatalf("%s: %q, %v, %v", level, id, adopted, err)
			}
			again, adopted, err := s.EnsureSubscription(ctx, "PARTS.ORDER")
			if !strings.EqualFold(again.SubscriptionID, id) || !adopted || err != nil {
				t.Fatalf("%s: %q after %q, %v, %v", level, again.SubscriptionID, id, adopted, err)
			}
			if _, err := s.Subscribe(ctx, "NO.SUCH"); audatex.OutcomeOf(err) != audatex.NotFound {
				t.Fatalf("%s: no such topic: %v", level, err)
			}
			order, err := r.box.CreateOrder("4711", sandbox.OrderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			list := poll(t, s, id)
			if len(list) != 1 || list[0].Order != strings.ToLower(order.ID) || !list[0].IsCreated() ||
				!audatex.IsPartsOrder(list[0].Topic) {
				t.Fatalf("%s: %+v", level, list)
			}
			assessment, err := s.AssessmentID(ctx, order.Originator, order.AssessmentNumber)
			if !strings.EqualFold(assessment, order.AssessmentID) || err != nil {
				t.Fatalf("%s: assessment %q, %v", level, assessment, err)
			}
			if _, err := s.AssessmentID(ctx, order.Originator, "none"); audatex.OutcomeOf(err) != audatex.NotFound {
				t.Fatalf("%s: no such assessment: %v", level, err)
			}
			if err := s.Unsubscribe(ctx, id); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Poll(ctx, id, nil); audatex.OutcomeOf(err) != audatex.NotFound {
				t.Fatalf("%s: subscription that is gone: %v", level, err)
			}
		}
	}
}

// Every notification of hundreds, in both forms and with all hostility, is understood, and every
// order is carried digit by digit.
func TestHostileNotificationsAndOrders(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		r := against(t, sandbox.Config{Seed: seed}, audatex.AuthForm)
		s, _ := r.connect(t, "leeds", relay.LevelSite, "4711")
		made, _, err := s.EnsureSubscription(t.Context(), "PARTS.ORDER")
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for range 60 {
			order, err := r.box.CreateOrder("4711", sandbox.OrderOptions{})
			for err == nil {
				want = append(want, strings.ToLower(order.ID))
				order, err = r.box.AdvanceOrder(order.ID)
			}
			if !errors.Is(err, sandbox.ErrOrderEnded) {
				t.Fatal(err)
			}
		}
		list := poll(t, s, made.SubscriptionID)
		if len(list) != len(want) {
			t.Fatalf("%d notifications, %d queued", len(list), len(want))
		}
		older := 0
		for i, n := range list {
			if n.Err != nil || n.Order != want[i] {
				t.Fatalf("notification %d: %q, want %q (%v): %s", i, n.Order, want[i], n.Err, n.Raw)
			}
			if at, ok := audatex.ParseTime(n.CreatedAt, time.UTC); !ok || time.Since(at).Abs() > 24*time.Hour {
				t.Fatalf("notification %d: created at %q: %s", i, n.CreatedAt, n.Raw)
			}
			if n.ID == "" {
				older++
			}
		}
		if older == 0 || older == len(list) {
			t.Errorf("%d of %d in the older form: not both were tried", older, len(list))
		}
		slices.Sort(want)
		for _, id := range slices.Compact(want) {
			stands, err := r.box.Order(id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Order(t.Context(), strings.ToUpper(id), nil)
			if err != nil || got.ID != id || got.CorrelationID == "" {
				t.Fatalf("%+v, %v", got, err)
			}
			if !bytes.Equal(got.JSON, bytes.TrimSpace(stands.JSON)) {
				t.Fatalf("order came as\n%s\nis\n%s", got.JSON, stands.JSON)
			}
		}
		if c := r.box.Counters(); c.TrapCalls != 0 || c.SpentRefreshTokens != 0 {
			t.Errorf("%d calls to addresses from messages, %d spent tokens", c.TrapCalls, c.SpentRefreshTokens)
		}
	}
}

func TestRawMessagesDoNotSpoilOthers(t *testing.T) {
	t.Parallel()
	r := against(t, sandbox.Config{Seed: 3}, audatex.AuthForm)
	s, _ := r.connect(t, "leeds", relay.LevelSite, "4711")
	made, _, err := s.EnsureSubscription(t.Context(), "PARTS.ORDER")
	if err != nil {
		t.Fatal(err)
	}
	order, err := r.box.CreateOrder("4711", sandbox.OrderOptions{Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{`null`, `{}`, `{bad}`,
		`{"ResourceUris":[{"Type":"PartsOrder","Value":"` + sandbox.TrapURL + `/x"}]}`} {
		if r.box.QueueRaw("4711", json.RawMessage(raw)) != 1 {
			t.Fatal("not queued")
		}
	}
	if err := r.box.Touch(order.ID); err != nil {
		t.Fatal(err)
	}
	page, err := s.Poll(t.Context(), made.SubscriptionID, nil)
	if audatex.OutcomeOf(err) != audatex.Malformed || !page.Carried() {
		t.Fatalf("%v", err)
	}
	list, _, err := audatex.ParsePage(page.Body)
	if err != nil || len(list) != 5 || list[4].Order != strings.ToLower(order.ID) {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, n := range list[:4] {
		if n.Err == nil {
			t.Errorf("an order in %s", n.Raw)
		}
	}
}

func TestFaultsBecomeOutcomes(t *testing.T) {
	t.Parallel()
	r := against(t, sandbox.Config{Seed: 1}, audatex.AuthForm)
	s, grant := r.connect(t, "leeds", relay.LevelSite, "4711")
	made, _, err := s.EnsureSubscription(t.Context(), "PARTS.ORDER")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		faults sandbox.Faults
		want   audatex.Outcome
		lost   bool
	}{
		{sandbox.Faults{Share500: 1}, audatex.Unavailable, false},
		{sandbox.Faults{Share503: 1}, audatex.Unavailable, false},
		{sandbox.Faults{ShareCut: 1}, audatex.Unavailable, true},
		{sandbox.Faults{ShareCutAfterRead: 1}, audatex.Unavailable, true},
	} {
		if err := r.box.SetFaults(tt.faults); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			if _, err := r.box.CreateOrder("4711", sandbox.OrderOptions{}); err != nil {
				t.Fatal(err)
			}
			before := r.box.Counters().Requests[sandbox.OpPoll]
			page, err := s.Poll(t.Context(), made.SubscriptionID, nil)
			e, ok := errors.AsType[*audatex.Error](err)
			if !ok || e.Outcome != tt.want || e.AnswerLost != tt.lost {
				t.Fatalf("%+v: %v", tt.faults, err)
			}
			if page.Carried() && !page.Truncated {
				t.Fatalf("%+v: page %q", tt.faults, page.Body)
			}
			if after := r.box.Counters().Requests[sandbox.OpPoll]; after != before+1 {
				t.Fatalf("%+v: one poll became %d", tt.faults, after-before)
			}
		}
	}
	if err := r.box.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if err := r.box.ExpireAccessTokens(grant.ID); err != nil {
		t.Fatal(err)
	}
	poll(t, s, made.SubscriptionID)
	if err := r.box.RevokeGrant(grant.ID); err != nil {
		t.Fatal(err)
	}
	_, err = s.Poll(t.Context(), made.SubscriptionID, nil)
	if _, ok := errors.AsType[*audatex.ConsentRequiredError](err); !ok {
		t.Fatalf("consent withdrawn: %v", err)
	}
	c := r.box.Counters()
	if c.PollsOverlapping != 0 || c.RefreshesOverlapping != 0 || c.SpentRefreshTokens != 0 {
		t.Errorf("%+v", c)
	}
}

// Many callers under short-lived tokens: one refresh at a time, no token spent twice, no secret in
// the log.
func TestShortLivedTokensUnderManyCallers(t *testing.T) {
	t.Parallel()
	r := against(t, sandbox.Config{Seed: 2, AccessTokenLifetime: 2 * time.Second}, audatex.AuthForm)
	var sessions []*audatex.Session
	var secrets []string
	for _, site := range []string{"1", "2", "3"} {
		s, grant := r.connect(t, "site-"+site, relay.LevelSite, site)
		sessions, secrets = append(sessions, s), append(secrets, grant.RefreshToken)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for ctx.Err() == nil && r.box.Counters().TokenRefreshes < 6 {
				<-time.After(2 * time.Millisecond) // twelve that never rest would take the machine for themselves
				if _, err := sessions[i%3].Whoami(t.Context()); err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	c := r.box.Counters()
	if c.TokenRefreshes < 6 || c.TokenRefreshes > 60 || c.RefreshesOverlapping != 0 || c.SpentRefreshTokens != 0 {
		t.Errorf("%d refreshes, %d overlapping, %d with a spent token", c.TokenRefreshes, c.RefreshesOverlapping,
			c.SpentRefreshTokens)
	}
	r.records.mu.Lock() // a refresh in the background may still be under way
	for _, rec := range r.records.rec {
		secrets = append(secrets, rec.AccessToken.Reveal(), rec.RefreshToken.Reveal())
	}
	r.records.mu.Unlock()
	out := r.log.String()
	for _, secret := range append(secrets, "sandbox-secret") {
		if strings.Contains(out, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	if !strings.Contains(out, "correlation_id=") {
		t.Error("the log holds no correlation id")
	}
}

// lockedBuffer collects log lines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
