package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// TestFewDescriptors gives the relay few descriptors and little memory, and has them attacked from
// all sides: a client whose forty callbacks hold every connection that they get, and a stranger
// with more idle connections to every listener than there are descriptors. Another client's
// deliveries, the probes and the metrics go on, and so does the store.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{400, 1024} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			attackDescriptors(t, limit)
		})
	}
}

func attackDescriptors(t *testing.T, limit int) {
	const orders = 60
	w := newWorld(t, 2, sandbox.Config{Seed: 9}, nil)
	w.openFiles = limit
	w.env["GOMEMLIMIT"] = "460MiB"
	w.env["RELAY_SHUTDOWN_GRACE"] = "1s"
	p := w.start()
	w.connect()
	w.api().Must(t, http.MethodPut, "/v1/clients/hostile", map[string]any{"allSites": true}, nil)
	hanging := harness.NewReceiver("hanging", relaytest.Hanging)
	hanging.Server = harness.ServeTracked(t, harness.Listen(t),
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // net/http notices that the sender is gone only after that
			<-r.Context().Done()
		}))
	for n := range 40 {
		w.api().Must(t, http.MethodPut, fmt.Sprintf("/v1/callbacks/hostile-%d?client=hostile", n), map[string]any{
			"url": "http://" + hanging.Address() + "/", "concurrency": 32, "timeoutSeconds": 60,
			"startFrom": "earliest",
		}, nil)
	}
	create := func() {
		for n := range orders {
			if _, err := w.sandbox.CreateOrder(vendorSite(w.sites[n%2]), sandbox.OrderOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	create()
	metric := func(name string) float64 {
		value, err := scrape("http://"+p.At.Metrics+"/metrics", name)
		if err != nil {
			t.Fatalf("the metrics cannot be read: %v", err)
		}
		return value
	}
	harness.Eventually(t, "the hanging receivers hold all that they get", func() string {
		if metric("audatex_relay_callbacks_waiting_for_attempts") == 0 {
			return fmt.Sprintf("%v attempts are under way", metric("audatex_relay_attempts_under_way"))
		}
		return ""
	})

	// The stranger reopens every connection that is closed, until the end.
	ctx, stop := context.WithCancel(t.Context())
	held := make(chan struct{})
	go func() { defer close(held); stranger(ctx, 600, p.At.API, p.At.Metrics, p.At.NATS) }()
	defer func() { stop(); <-held }()
	harness.Eventually(t, "the stranger has what there is", func() string {
		if metric(`audatex_relay_listener_evicted_total{listener="api"}`)+
			metric(`audatex_relay_listener_refused_total{listener="api",reason="address"}`) == 0 {
			return "nothing was refused yet"
		}
		return ""
	})

	w.newReceiver("healthy", relaytest.Healthy, map[string]any{"concurrency": 8})
	w.register()
	harness.AwaitAccepted(t, orders, w.receivers[0])
	create()
	harness.AwaitAccepted(t, 2*orders, w.receivers[0])
	for range 20 {
		for _, probe := range []string{"/livez", "/readyz"} {
			if status, err := get("http://" + p.At.API + probe); err != nil || status != http.StatusOK {
				t.Errorf("%s: %d %v", probe, status, err)
			}
		}
	}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid)); err == nil && len(files) > limit-20 {
		t.Errorf("%d of %d descriptors are open", len(files), limit)
	}
	if log := string(w.book.Text()); strings.Contains(log, "Critical write error") ||
		strings.Contains(log, "too many open files") {
		t.Error("the relay ran out of descriptors")
	} else if !strings.Contains(log, "the limit of open files is low") {
		t.Error("the start does not tell of the low limit")
	}
	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.receivers[0].CheckClean(t)
	w.receivers[0].CheckOrdered(t)
}

// stranger holds so many connections to each address, without sending anything, until ctx ends.
func stranger(ctx context.Context, each int, addresses ...string) {
	dialer := net.Dialer{Timeout: time.Second}
	if runtime.GOOS == "linux" { // all of 127.0.0.0/8 is this machine: an address of his own, as strangers have
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	}
	held := make([]net.Conn, each*len(addresses))
	defer func() {
		for _, c := range held {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	pace := time.NewTicker(500 * time.Microsecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		at := n % len(held)
		if held[at] != nil {
			_ = held[at].SetReadDeadline(time.Now())
			if _, err := held[at].Read(make([]byte, 4096)); err != nil && !os.IsTimeout(err) {
				_ = held[at].Close()
				held[at] = nil
			}
		}
		if held[at] == nil {
			held[at], _ = dialer.DialContext(ctx, "tcp", addresses[n%len(addresses)]) // refused is as good
		}
	}
}

// scrape reads one metric, on a connection of its own; one that is not there is 0.
func scrape(url, name string) (float64, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, lines.Err()
}

// get asks on a connection of its own, as a probe does.
func get(url string) (int, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}
