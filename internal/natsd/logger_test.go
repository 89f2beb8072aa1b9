package natsd

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/relay"
)

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// lines returns what was written since the last call.
func (j *journal) lines() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return strings.Split(strings.TrimSuffix(j.text.String(), "\n"), "\n")
}

func newLogger(log *journal) logger {
	handler := slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return logger{log: slog.New(handler), fatal: make(chan string, 1), mistakes: newMistakes(slog.New(handler))}
}

const aClient = `127.0.0.1:41234 - cid:17 - "v1.5:go" - "SUBSCRIBERS/user:abc" - `

func TestMistakesOfClientsAreSummedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log journal
		l := newLogger(&log)
		flood := func() {
			for i := range 10_000 {
				l.Errorf(aClient+"Publish Violation - Subject %q", fmt.Appendf(nil, "forbidden.%d", i))
			}
		}
		flood()
		l.Errorf(aClient + `Subscription Violation - Subject "100%.>", SID 1`)
		if got := log.lines(); len(got) != 2 || !strings.HasPrefix(got[0], "level=WARN") ||
			!strings.Contains(got[0], `abc`) ||
			!strings.Contains(got[0], `Subject \"forbidden.0\"`) ||
			!strings.Contains(got[1], `Subject \"100%.>\", SID 1`) {
			t.Errorf("at once: %q", got)
		}
		<-time.After(mistakesEvery + time.Second)
		synctest.Wait()
		if got := log.lines(); len(got) != 1 || !strings.HasPrefix(got[0], "level=WARN") ||
			!strings.Contains(got[0], "9999 more of the kind") ||
			!strings.Contains(got[0], `Subject \"forbidden.9999\"`) {
			t.Errorf("a minute later: %q", got)
		}
		flood() // it goes on: nothing before the minute is over
		if got := log.lines(); got[0] != "" {
			t.Errorf("meanwhile: %q", got)
		}
		<-time.After(mistakesEvery)
		synctest.Wait()
		if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], "10000 more of the kind") {
			t.Errorf("two minutes later: %q", got)
		}
		<-time.After(2 * mistakesEvery) // quiet: the next is a first one again
		synctest.Wait()
		flood()
		if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], "forbidden.0") {
			t.Errorf("after a quiet time: %q", got)
		}
		l.mistakes.end()
		flood()
		if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], "9999 more of the kind") {
			t.Errorf("at the end: %q", got)
		}
	})
}

// What a client is called, what it sends and where to is its own choice: that makes its mistakes
// neither long nor an error of the relay.
func TestWhatIsAClientsMistake(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 4000)
	for _, c := range []struct {
		format string
		v      []any
		level  string // "": not logged
	}{
		{aClient + "Publish Violation - Subject %q", []any{long}, "WARN"},
		{aClient + "Publish Violation - Reply %q", []any{"a"}, "WARN"},
		{aClient + fmt.Sprintf("Subscription Violation - Subject %q, Queue: %q, SID %s", "a", long, long), nil, "WARN"},
		{aClient + "%s: %d vs %d", []any{server.ErrMaxPayload.Error(), 9 << 20, MaxPayload}, "WARN"},
		{aClient + "Client Error %s", []any{long}, "WARN"},
		{aClient + "Client parser ERROR, state=0, i=0: proto='\"%d\"...'", nil, "WARN"},
		{aClient + "processPub Bad or Missing Size: \"a b\"", nil, "WARN"},
		{"[::1]:4 - cid:5 - TLS %s handshake error: %v%s", []any{"client", errors.New("bad certificate"), ""}, "WARN"},
		{fmt.Sprintf(`127.0.0.1:1 - cid:2 - %q - "A/b" - Publish Violation - Subject %%q`, `v1:go:%q" - JetStream \`),
			[]any{"a"}, "WARN"},
		{fmt.Sprintf(`127.0.0.1:1 - cid:2 - %q - "A/b" - Publish Violation - Subject %%q`, long), []any{"a"}, "WARN"},
		{"127.0.0.1:1 - cid:2 - %v - %s", []any{server.ErrAuthentication, "User a key"}, ""},
		{"127.0.0.1:1 - cid:2 - authentication error", nil, ""},
		{aClient + "invalid publish subject %q", []any{"a..b"}, "ERROR"},
		{aClient + "Problem registering with account %q: %s", []any{"A", "maximum"}, "ERROR"},
		{"JetStream failed to store a msg on stream '%s > %s': %v",
			[]any{"RELAY", "relay_inbox", "no space left on device"},
			"ERROR"},
		{"JetStream out of space, will be DISABLED", nil, "ERROR"},
		{"JETSTREAM - %s", []any{"Publish Violation - Subject"}, "ERROR"},
	} {
		var log journal
		l := newLogger(&log)
		l.Errorf(c.format, c.v...)
		l.mistakes.end()
		got := log.lines()[0]
		switch {
		case c.level == "" && got != "", c.level != "" && !strings.HasPrefix(got, "level="+c.level+" "),
			len(got) > 1000:
			t.Errorf("%.200q is logged as %q", c.format, got)
		case strings.Contains(got, "%!"):
			t.Errorf("%q is logged as %q", c.format, got)
		}
	}
}

func TestRequestsThatCannotBeReadAreSummedUp(t *testing.T) {
	t.Parallel()
	var log journal
	l := newLogger(&log)
	for range 100 {
		l.Warnf(badRequest+": %q", strings.Repeat("x", 4000))
	}
	l.Warnf("JetStream is slow")
	l.mistakes.end()
	if got := log.lines(); len(got) != 3 || len(got[0]) > 400 || !strings.Contains(got[1], "slow") ||
		!strings.Contains(got[2], "99 more of the kind") {
		t.Errorf("%q", got)
	}
}

// The server's own lines, as it writes them today.
func TestASubscriberCannotFloodTheLog(t *testing.T) {
	t.Parallel()
	var log journal
	s, err := Start(Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	keys := access.New(access.Config{Log: slog.New(slog.DiscardHandler)})
	text, stored := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
	keys.Put(relay.Client{ID: "a", Sites: []string{"leeds"}, Keys: []relay.Key{stored}}, 1)
	s.Admit(keys)
	nc, err := nats.Connect("nats://"+s.Addr(), nats.UserInfo(stored.ID, text), nats.NoReconnect(), nats.Name(`%q" - `),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const tries = 5000
	for range tries {
		if err := nc.Publish("relay.inbox.11.x", nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := nc.Subscribe("relay.%d.>", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.Stop()
	text = strings.Join(log.lines(), "\n")
	if strings.Contains(text, "level=ERROR") || strings.Count(text, "Violation") != 4 ||
		!strings.Contains(text, fmt.Sprintf(": %d more of the kind", tries-1)) ||
		!strings.Contains(text, ": 1 more of the kind") {
		t.Errorf("%.3000s", text)
	}
}
