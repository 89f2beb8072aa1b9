package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// onlyToken is a store with the tokens of the one connection that another reader has.
type onlyToken struct {
	mu  sync.Mutex
	rec relay.TokenRecord
}

// The commands of docs/cutover.md move a queue over from another reader, and what waited in it
// arrives.
func TestTheDocumentedCutoverLosesNothing(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "cutover.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```sh\n")[1:]
	if len(blocks) != 4 {
		t.Fatalf("%d blocks of commands", len(blocks))
	}
	for i := range blocks {
		blocks[i], _, _ = strings.Cut(blocks[i], "```")
	}
	w := newWorld(t, 1, sandbox.Config{Tame: true}, nil)
	w.env["RELAY_PUBLIC_URL"] = "http://127.0.0.1"
	p := w.start()

	// The other reader has subscribed and read an order; another changes when it has stopped.
	grant, err := w.sandbox.Grant(sandbox.Consent{Sites: []string{"V01"}})
	if err != nil {
		t.Fatal(err)
	}
	other := subscribeElsewhere(t, w, grant.RefreshToken)
	waits, err := w.sandbox.CreateOrder("V01", sandbox.OrderOptions{})
	if err != nil {
		t.Fatal(err)
	}

	setUp := ""
	run := func(block string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-euc", setUp+block)
		c.Env = append(os.Environ(), "RELAY="+w.api().Base, "RELAY_ADMIN_TOKEN="+w.admin, "NO_PROXY=127.0.0.1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, block, out)
		}
	}
	run(blocks[0])
	setUp, _, _ = strings.Cut(blocks[0], "   api -X PUT") // what the other blocks use
	run(blocks[1])
	again, err := w.sandbox.Grant(sandbox.Consent{Sites: []string{"V01"}}) // as the user of the link does
	if err != nil {
		t.Fatal(err)
	}
	w.api().Must(t, "PATCH", "/v1/connections/leeds-grant", map[string]any{"refreshToken": again.RefreshToken}, nil)
	run(blocks[2])
	run(blocks[3])
	harness.Eventually(t, "the order that waited is known", func() string {
		a, err := w.api().Call("GET", "/v1/orders/"+strings.ToLower(waits.ID), nil)
		if err != nil || a.Status != 200 {
			return string(a.Body)
		}
		return ""
	})
	if subs := w.sandbox.Subscriptions(); len(subs) != 1 || !strings.EqualFold(subs[0].ID, other) {
		t.Errorf("subscriptions %v, want only the old one %s", subs, other)
	}
	if c := w.sandbox.Counters(); c.SpentRefreshTokens != 0 || c.NotificationsLost != 0 {
		t.Errorf("%d uses of spent tokens, %d notifications lost", c.SpentRefreshTokens, c.NotificationsLost)
	}
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ExitCode(t)
}

// subscribeElsewhere subscribes as another program does, and returns the subscription's id.
func subscribeElsewhere(t *testing.T, w *world, refresh string) string {
	t.Helper()
	client, err := audatex.New(audatex.Config{BaseURL: w.env["RELAY_AUDATEX_BASE_URL"]})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	store := &onlyToken{rec: relay.TokenRecord{RefreshToken: relay.NewSecret(refresh)}}
	tokens, err := audatex.NewTokens(audatex.TokensConfig{
		TokenURL: w.env["RELAY_AUDATEX_TOKEN_URL"], ClientID: w.env["RELAY_AUDATEX_CLIENT_ID"],
		ClientSecret: relay.NewSecret(w.env["RELAY_AUDATEX_CLIENT_SECRET"]), Store: store, Exclusive: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tokens.Close(t.Context()) }()
	id, err := audatex.NewSession(client, tokens, "other", relay.LevelSite).Subscribe(t.Context(), audatex.DefaultTopic)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Token implements audatex.TokenStore.
func (s *onlyToken) Token(context.Context, string) (relay.TokenRecord, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec, 1, nil
}

// SaveToken implements audatex.TokenStore.
func (s *onlyToken) SaveToken(_ context.Context, _ string, rec relay.TokenRecord, _ uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec = rec
	return 1, nil
}
