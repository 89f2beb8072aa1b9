package upgrade

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
	"github.com/audatex-relay/relay/relaytest"
)

// newBus runs a NATS server on loopback until the test ends.
func newBus(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "bus", Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(t.TempDir(), "nats"),
		MaxPayload: natsd.MaxPayload, MaxPending: 256 << 20, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(harness.Patience) {
		t.Fatal("the NATS server does not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Two relays of one release become two of the next, one after the other, under load: nothing is lost, no order loses
// its order, the mark rises when the last old one has gone, and after that none of the old release starts.
func TestReleasesRollUnderLoad(t *testing.T) {
	t.Parallel()
	present, next := topology.Formats, topology.Formats+1
	nc := newBus(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	mark := func() int {
		m, err := topology.Topology{Prefix: "relay"}.ReadMark(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		return m.Formats
	}
	vendor := sandbox.New(sandbox.Config{Seed: 11, ClientID: "client", ClientSecret: "secret"})
	front := harness.ServeTracked(t, harness.Listen(t), vendor.Handler())
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "RELAY_NATS_URL=" + nc.ConnectedUrl(),
		"RELAY_STREAM_REPLICAS=1", "RELAY_ENCRYPTION_KEYS=" + string(keys),
		"RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0", "RELAY_ADMIN_TOKEN=an-admin-token-for-tests",
		"RELAY_AUDATEX_CLIENT_ID=client", "RELAY_AUDATEX_CLIENT_SECRET=secret",
		"RELAY_AUDATEX_BASE_URL=http://" + front.Addr + sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL=http://" + front.Addr + sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL=http://" + front.Addr + sandbox.TokenPath,
		"RELAY_AUDATEX_RATE=1000000", "RELAY_POLL_INTERVAL=200ms",
		"RELAY_RETRY_SCHEDULE=100ms,200ms,400ms,800ms,1s,1s,1s,1s", "RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8",
	}
	var book harness.Logbook
	start := func(formats int) *harness.Process {
		t.Helper()
		p := harness.StartProcess(t, release(t, formats), []string{"serve"}, env, &book)
		p.AwaitServing(t, fmt.Sprint("a relay of formats ", formats))
		return p
	}
	stop := func(p *harness.Process) {
		t.Helper()
		if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatalf("it was gone before: %v\n%s", err, book.Tail(30))
		}
		if code := p.ExitCode(t); code != 0 {
			t.Fatalf("exit code %d\n%s", code, book.Tail(30))
		}
	}
	release(t, next) // before anything waits for it
	old := [2]*harness.Process{start(present), start(present)}

	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	api := harness.Caller{Base: "http://" + old[0].At.API, Token: "an-admin-token-for-tests", Client: client}
	sites := []string{"leeds", "york", "bath", "dover", "hull", "ely"}
	for _, site := range sites {
		g, err := vendor.Grant(sandbox.Consent{Sites: []string{"V-" + site}})
		if err != nil {
			t.Fatal(err)
		}
		api.Must(t, http.MethodPut, "/v1/connections/"+site,
			map[string]any{"level": "site", "site": site, "refreshToken": g.RefreshToken}, nil)
	}
	var receivers []*harness.Receiver
	for id, behave := range map[string]relaytest.Behaviour{"healthy": relaytest.Healthy, "flaky": relaytest.OneInTen} {
		r := harness.NewReceiver(id, behave)
		r.Server = harness.ServeTracked(t, harness.Listen(t), r)
		receivers = append(receivers, r)
		api.Must(t, http.MethodPut, "/v1/callbacks/"+id, r.NewCallback(t), nil)
	}
	harness.AwaitSubscriptions(t, vendor, len(sites))

	working, end := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { produce(working, t, vendor, sites) })
	defer load.Wait()
	defer end()
	more := func(n int) { // deliveries from here on
		t.Helper()
		harness.AwaitAccepted(t, receivers[0].AcceptedEvents()+n, receivers[0])
	}
	more(60)
	stop(old[0])
	first := start(next)
	more(120)
	if m := mark(); m != present {
		t.Fatalf("the mark is %d while an old relay runs", m)
	}
	again := start(present) // it may still come back
	more(60)
	stop(again)
	if m := mark(); m != present {
		t.Fatalf("the mark is %d while an old relay runs", m)
	}
	stop(old[1])
	second := start(next)
	harness.Eventually(t, "the mark rises", func() string {
		if m := mark(); m != next {
			return fmt.Sprint(m)
		}
		return ""
	})
	more(60)
	end()
	load.Wait()

	harness.Eventually(t, "everything arrives", func() string {
		c := vendor.Counters()
		if c.NotificationsWaiting > 0 {
			return fmt.Sprintf("%d wait at the vendor's", c.NotificationsWaiting)
		}
		for _, r := range receivers {
			if got, want := r.AcceptedEvents(), int(c.NotificationsHandedOut-c.NotificationsLost); got < want {
				return fmt.Sprintf("%s has %d of %d", r.ID, got, want)
			}
		}
		return ""
	})
	for _, r := range receivers {
		r.CheckClean(t)
		r.CheckOrdered(t)
		r.CheckLedger(t, vendor.Ledger(), ledger.NoExceptions)
		t.Logf("%s: %d deliveries of %d events", r.ID, len(r.Deliveries()), r.AcceptedEvents())
	}

	var late harness.Logbook
	p := harness.StartProcess(t, release(t, present), []string{"serve"}, env, &late)
	if code := p.ExitCode(t); code != 1 {
		t.Errorf("a relay of the old release ends with %d", code)
	}
	says := fmt.Sprintf("its documents may have formats version %d, this program knows up to version %d", next, present)
	if text := string(late.Text()); !strings.Contains(text, says) {
		t.Errorf("it does not say why: %s", text)
	}
	stop(first)
	stop(second)
}

// produce moves orders at the vendor's until ctx ends.
func produce(ctx context.Context, t *testing.T, vendor *sandbox.Sandbox, sites []string) {
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	var orders []string
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if n%3 == 0 {
			var o sandbox.Order
			if o, err = vendor.CreateOrder("V-"+sites[n%len(sites)], sandbox.OrderOptions{}); err == nil {
				orders = append(orders, o.ID)
			}
		} else {
			err = vendor.Touch(orders[(n*7)%len(orders)])
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}
