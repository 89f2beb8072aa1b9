package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/relaytest"
)

// receiverEnv makes this program the receiver: a process of its own, so that its cost is not the
// relay's.
const receiverEnv = "RELAY_BENCH_RECEIVER"

// behaviours are how the receiver responds, by the first part of a path. There is also /endless/….
var behaviours = map[string]relaytest.Behaviour{
	"ok": relaytest.Healthy, "received": relaytest.Healthy, "tenth": relaytest.OneInTen, "dead": relaytest.Hanging,
	"slow": relaytest.Slow(200 * time.Millisecond), "failing": relaytest.Always(http.StatusServiceUnavailable),
}

// replayedSuffix is what the paths of replayed deliveries are counted under in addition.
const replayedSuffix = "-replayed"

// seen is what one path of the receiver has seen.
type seen struct {
	Count         int
	First, Last   time.Time
	P50, P99, Max float64 // of the latencies
}

// tally counts what one path sees.
type tally struct {
	mu        sync.Mutex
	seen      seen
	latencies []float64 // milliseconds from the event's publishing, for /received/… from its notification's receipt
}

func (t *tally) note(began, now time.Time) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen.Count == 0 {
		t.seen.First = now
	}
	t.seen.Count++
	t.seen.Last = now
	if !began.IsZero() && len(t.latencies) < 1<<20 {
		t.latencies = append(t.latencies, float64(now.Sub(began).Microseconds())/1000)
	}
	return t.seen.Count
}

func (t *tally) report() seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.seen
	if l := slices.Sorted(slices.Values(t.latencies)); len(l) > 0 {
		at := func(q float64) float64 { return l[min(len(l)-1, int(math.Ceil(q*float64(len(l))))-1)] }
		s.P50, s.P99, s.Max = at(0.5), at(0.99), l[len(l)-1]
	}
	return s
}

// published is when an event went into the log: its id ends with that, in microseconds.
func published(id string) time.Time {
	micros, err := strconv.ParseInt(id[max(0, len(id)-16):], 10, 64)
	if err != nil {
		return time.Time{} // it measures nothing
	}
	return time.UnixMicro(micros)
}

// received returns when the relay received the event's notification.
func received(body io.Reader) time.Time {
	var ev struct {
		Data struct {
			Notification struct{ ReceivedAt time.Time }
		}
	}
	_ = json.NewDecoder(body).Decode(&ev) // the zero time measures nothing
	return ev.Data.Notification.ReceivedAt
}

// receive is the child process: it responds to callbacks by path until its input closes, and at a
// second address as odd does. It does not verify, as relaytest's receiver does: the cost of that
// would be taken from the relay, which is measured on the same machine. Nor does it collect its few
// megabytes of garbage several times a second, which would be measured as the relay's latency.
func receive() {
	debug.SetGCPercent(2000)
	var tallies sync.Map // by path
	of := func(path string) *tally {
		t, _ := tallies.LoadOrStore(path, &tally{})
		return t.(*tally)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /seen/{path...}", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(of(r.PathValue("path")).report())
	})
	mux.HandleFunc("POST /{kind}/{name}", func(w http.ResponseWriter, r *http.Request) {
		path, kind, began := r.URL.Path[1:], r.PathValue("kind"), published(r.Header.Get("Webhook-Id"))
		if kind == "received" {
			began = received(r.Body)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Webhook-Replay") != "" {
			path += replayedSuffix
		}
		n := of(path).note(began, time.Now())
		if kind == "endless" {
			endless(w)
			return
		}
		status := behaviours[kind](n, r)
		if status == 0 {
			panic(http.ErrAbortHandler) // no response at all
		}
		w.WriteHeader(status)
	})
	listener, strange := get(net.Listen("tcp", "127.0.0.1:0")), get(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(listener.Addr(), strange.Addr())
	go odd(strange)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the parent is gone
	}()
	_ = server.Serve(listener)
}

// endless responds with a body that does not end before the sender has gone.
func endless(w http.ResponseWriter) {
	w.WriteHeader(http.StatusInternalServerError)
	var err error
	for part := make([]byte, 32<<10); err == nil; {
		_, err = w.Write(part)
	}
}

// tlsHandshake is the first byte of a TLS connection.
const tlsHandshake = 22

// dripEvery is how long a receiver that drips waits before each byte.
const dripEvery = 100 * time.Millisecond

// odd responds to requests of HTTP with a head that comes byte by byte and never ends, and to those
// of TLS with garbage.
func odd(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			first := make([]byte, 1)
			if _, err := io.ReadFull(conn, first); err != nil {
				return
			}
			if first[0] == tlsHandshake {
				_, _ = conn.Write(bytes.Repeat([]byte("garbage "), 100))
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			head := "HTTP/1.1 200 OK\r\nX-Drip: "
			for i := 0; ; i++ {
				if _, err := conn.Write([]byte{head[min(i, len(head)-1)]}); err != nil {
					return
				}
				time.Sleep(dripEvery)
			}
		}()
	}
}

// receiver is the child as its parent sees it.
type receiver struct {
	base  string
	odd   string // the second address, without a scheme
	cmd   *exec.Cmd
	stdin io.Closer
}

func startReceiver(ctx context.Context) *receiver {
	cmd := exec.CommandContext(ctx, get(os.Executable())) //nolint:gosec // this program itself
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, stdout := get(cmd.StdinPipe()), get(cmd.StdoutPipe())
	must(cmd.Start())
	var addr, odd string
	if _, err := fmt.Fscanln(stdout, &addr, &odd); err != nil {
		must(fmt.Errorf("read the receiver's addresses: %w", err))
	}
	return &receiver{base: "http://" + addr, odd: odd, cmd: cmd, stdin: stdin}
}

func (r *receiver) stop() {
	_ = r.stdin.Close()
	_ = r.cmd.Wait()
}

// wait waits until the paths have got n events each, and returns what they saw.
func (r *receiver) wait(ctx context.Context, n int, patience time.Duration, paths ...string) []seen {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		all := make([]seen, len(paths))
		missing := 0
		for i, p := range paths {
			must(read(r.base+"/seen/"+p, &all[i]))
			missing += max(0, n-all[i].Count)
		}
		if missing == 0 {
			return all
		}
		if !backoff.Sleep(ctx, 50*time.Millisecond) {
			must(fmt.Errorf("%d deliveries are missing after %s: %w", missing, patience, ctx.Err()))
		}
	}
}

// span returns the rate over all that the paths have got, from the first arrival to the last.
func span(all []seen) float64 {
	first := slices.MinFunc(all, func(a, b seen) int { return a.First.Compare(b.First) }).First
	last := slices.MaxFunc(all, func(a, b seen) int { return a.Last.Compare(b.Last) }).Last
	count := 0
	for _, s := range all {
		count += s.Count
	}
	return float64(count) / last.Sub(first).Seconds()
}
