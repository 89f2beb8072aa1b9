package store_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func newKeys(t *testing.T) string {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	return string(keys)
}

func openWithKeys(t *testing.T, nc *nats.Conn, keys string) *store.Store {
	t.Helper()
	sealer, err := store.NewSealer([]byte(keys))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeysetsComeInLists(t *testing.T) {
	t.Parallel()
	a, b := newKeys(t), newKeys(t)
	for name, keys := range map[string]string{
		"one": a, "an array": "[" + a + ",\n" + b + "]", "one after the other": a + "\n" + b,
		"with commas": a + ", " + b, "one twice": a + a, "with spaces": " " + a + "\n",
	} {
		if _, err := store.NewSealer([]byte(keys)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := regexp.MustCompile(`"keyId":\d+`).ReplaceAllString(b, regexp.MustCompile(`"keyId":\d+`).FindString(a))
	for name, keys := range map[string]string{
		"none": "", "an empty array": "[]", "one and rubbish": a + "rubbish", "an array that is not closed": "[" + a,
		"without its primary": strings.Replace(a, `"primaryKeyId":`, `"primaryKeyId":1`, 1),
		"two keys of one id":  a + other, "another prefix": strings.Replace(a, "TINK", "RAW", 1),
	} {
		if _, err := store.NewSealer([]byte(keys)); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), "value") || len(err.Error()) > 200 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Everything that anything seals is encrypted again, by several at once, while others write; then
// the old key is not needed.
func TestTheFirstKeyTakesOverWhatAnotherHasEncrypted(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	before, after := newKeys(t), newKeys(t)
	s := openWithKeys(t, nc, before)
	ctx := t.Context()
	const many = 100
	record := func(i int) relay.TokenRecord {
		return relay.TokenRecord{
			AccessToken:  relay.NewSecret(fmt.Sprint("access-", i)),
			RefreshToken: relay.NewSecret(fmt.Sprint("refresh-", i)), Epoch: 7, Generation: "g",
			ConsentAt: time.Date(2026, 1, 15, 1, 2, 3, 0, time.UTC), Intent: &relay.RefreshIntent{ID: "<&>"},
		}
	}
	for i := range many {
		if _, err := s.Tokens.SaveToken(ctx, fmt.Sprint("c", i), record(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Callbacks.Create(ctx, "cb", relay.Callback{ID: "cb",
		Secrets: relay.CallbackSecrets{Auth: &relay.Auth{Type: "bearer", Token: "t"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Requests.Create(ctx, "r",
		store.IdempotentRequest{Caller: "a", RequestSecrets: store.RequestSecrets{Seed: []byte("seed")}}); err != nil {
		t.Fatal(err)
	}
	sealed, err := s.SealConsent("link", "attempt", relay.ConsentSecrets{Verifier: "v"})
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour).UTC()
	if _, err := s.Consents.Create(ctx, "link", relay.ConsentLink{ID: "link", ExpiresAt: expires,
		Attempts: []relay.ConsentAttempt{{ID: "attempt", Sealed: sealed}, {ID: "ended"}}}); err != nil {
		t.Fatal(err)
	}

	var log lockedLog
	var running sync.WaitGroup
	start := func() (both []*store.Resealer, stop func()) {
		run, cancel := context.WithCancel(ctx)
		for range 2 {
			r := store.NewResealer(openWithKeys(t, nc, after+before), nil, slog.New(slog.NewTextHandler(&log, nil)))
			both = append(both, r)
			running.Go(func() { r.Run(run) })
		}
		return both, func() {
			cancel()
			running.Wait()
		}
	}
	_, revision, err := s.Tokens.Token(ctx, "c5")
	if err != nil {
		t.Fatal(err)
	}
	_, interrupt := start()
	defer interrupt()
	// An owner goes on writing meanwhile, with the old key first: nothing of it may be lost.
	for n := range 20 {
		next := record(1000 + n)
		for {
			if _, err := s.Tokens.SaveToken(ctx, "c5", next, revision); err == nil {
				break
			}
			revision = currentRevision(t, nc, "KV_relay_tokens", "$KV.relay_tokens.c5")
		}
		revision = currentRevision(t, nc, "KV_relay_tokens", "$KV.relay_tokens.c5")
	}
	// They may have passed these documents before the last of these writes. One that starts after
	// it finds what is left.
	interrupt()
	both, stop := start()
	defer stop()
	deadline := time.Now().Add(time.Minute)
	for !slices.ContainsFunc(both, func(r *store.Resealer) bool { return r.Status().Through() }) {
		if time.Now().After(deadline) {
			t.Fatalf("not through: %+v", both[0].Status())
		}
		<-time.After(20 * time.Millisecond)
	}
	stop()
	if !strings.Contains(log.String(), "all secrets are encrypted with the first key") {
		t.Errorf("the log does not say that it is through: %s", log.String())
	}

	only := openWithKeys(t, nc, after)
	for i := range many {
		want := record(i)
		if i == 5 {
			want = record(1019)
		}
		got, _, err := only.Tokens.Token(ctx, fmt.Sprint("c", i))
		if err != nil || got.RefreshToken.Reveal() != want.RefreshToken.Reveal() || got.Epoch != 7 ||
			!got.ConsentAt.Equal(want.ConsentAt) || got.Intent.ID != "<&>" {
			t.Fatalf("token %d: %+v, %v", i, got, err)
		}
	}
	if cb, _, err := only.Callbacks.Get(ctx, "cb"); err != nil || cb.Secrets.Auth.Token != "t" {
		t.Errorf("callback: %v", err)
	}
	if r, _, err := only.Requests.GetAtLeader(ctx, "r"); err != nil || string(r.Seed) != "seed" || r.Caller != "a" {
		t.Errorf("request: %v", err)
	}
	link, _, err := only.Consents.Get(ctx, "link")
	if err != nil || len(link.Attempts) != 2 || !link.ExpiresAt.Equal(expires) {
		t.Fatalf("link: %+v, %v", link, err)
	}
	if secrets, err := only.OpenConsent("link", "attempt", link.Attempts[0].Sealed); err != nil ||
		secrets.Verifier != "v" {
		t.Errorf("consent: %v", err)
	}
	// Without the new key the old one opens nothing, and the error names the missing key.
	r := store.NewResealer(openWithKeys(t, nc, before), nil, slog.New(slog.DiscardHandler))
	look, end := context.WithCancel(ctx)
	running.Go(func() { r.Run(look) })
	for r.Status().CheckedAt.IsZero() {
		<-time.After(10 * time.Millisecond)
	}
	end()
	running.Wait()
	status := r.Status()
	if i := slices.IndexFunc(status.Keys, func(k store.KeyUse) bool { return status.Use(k) == "missing" }); i < 0 ||
		status.Keys[i].Secrets != many+3 || status.Through() {
		t.Errorf("status with the wrong key: %+v", status)
	}
}

func currentRevision(t *testing.T, nc *nats.Conn, stream, subject string) uint64 {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	m, err := js.GetLastMsg(stream, subject)
	if err != nil {
		t.Fatal(err)
	}
	return m.Sequence
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Code that seals something in a new place must add it to sealedBuckets, or a rotation of the keys
// would leave it behind.
func TestEveryPlaceThatIsSealedIsKnownToTheResealer(t *testing.T) {
	t.Parallel()
	known := []string{"callback ", "consent ", "request ", "tokens "}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.seal\("([^"]*)"`).FindAllSubmatch(b, -1) {
			found = append(found, string(m[1]))
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); !slices.Equal(found, known) {
		t.Errorf("sealed are %q; the resealer knows %q", found, known)
	}
}
