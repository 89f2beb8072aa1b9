package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// running is a demo in this process; interrupt is its user's Ctrl-C.
type runningDemo struct {
	t         *testing.T
	lines     *bufio.Scanner
	interrupt context.CancelFunc
	ended     chan int
	stderr    *strings.Builder
}

func startDemo(t *testing.T, args ...string) *runningDemo {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	d := &runningDemo{t: t, lines: bufio.NewScanner(out), interrupt: cancel, ended: make(chan int, 1),
		stderr: &strings.Builder{}}
	d.lines.Buffer(nil, 1<<20)
	go func() {
		code := run(program{ctx: ctx, stdout: in, stderr: d.stderr}, append([]string{"demo"}, args...))
		_ = in.Close()
		d.ended <- code
	}()
	t.Cleanup(cancel)
	return d
}

// next reads a line, which must fit on a terminal of 100 columns, and reports whether there was one.
func (d *runningDemo) next() bool {
	if !d.lines.Scan() {
		return false
	}
	if line := d.lines.Text(); utf8.RuneCountInString(line) > 100 {
		d.t.Errorf("a line of %d columns: %s", utf8.RuneCountInString(line), line)
	}
	return true
}

// until reads lines until one matches and returns its groups.
func (d *runningDemo) until(pattern string) []string {
	d.t.Helper()
	want := regexp.MustCompile(pattern)
	for d.next() {
		if found := want.FindStringSubmatch(d.lines.Text()); found != nil {
			return found
		}
	}
	d.t.Fatalf("the demo ended (%v) without a line like %s; stderr:\n%s", d.lines.Err(), pattern, d.stderr)
	return nil
}

// end reads to the end and returns the exit code.
func (d *runningDemo) end() int {
	for d.next() {
		continue
	}
	return <-d.ended
}

func TestWhatTheDemoPrintsWorks(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--rate", "240")
	key := d.until(`^  KEY=(ark_\w+)$`)[1]
	api := d.until(`^  curl -s -H "Authorization: Bearer \$KEY" '(http://[\d.:]+)/v1/events\?limit=3'$`)[1]
	metrics := d.until(`^  curl -s (http://[\d.:]+/metrics)$`)[1]
	login := d.until(`^  nats sub --server (nats://[\d.:]+) --user (\w+) --password "\$KEY" \\$`)
	subject := d.until(`^    '(audatex\.leeds\.>)'$`)[1]

	// What a service sees on NATS with the printed login.
	nc, err := nats.Connect(login[1], nats.UserInfo(login[2], key), nats.Timeout(10*time.Second))
	if err != nil {
		t.Fatalf("log in with what was printed: %v", err)
	}
	defer nc.Close()
	heard, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan []string, 1)
	go func() { // the demo must be able to go on printing
		var rest []string
		for d.next() {
			rest = append(rest, d.lines.Text())
		}
		drained <- rest
	}()
	message, err := heard.NextMsg(30 * time.Second)
	if err != nil {
		t.Fatalf("hear an event on %s: %v", subject, err)
	}
	var event struct{ ID string }
	if err := json.Unmarshal(message.Data, &event); err != nil || event.ID == "" {
		t.Fatalf("heard %s: %v", message.Data, err)
	}

	// The same event through the printed curl.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	get := func(url string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v %s", url, answer.Status, err, body)
		}
		return string(body)
	}
	var page struct{ Items []json.RawMessage }
	if err := json.Unmarshal([]byte(get(api+"/v1/events?limit=3")), &page); err != nil || len(page.Items) == 0 {
		t.Errorf("the feed answers %d events, %v", len(page.Items), err)
	}
	if got := get(api + "/v1/events/" + event.ID); got != string(message.Data) {
		t.Errorf("the API answers\n%s, NATS\n%s", got, message.Data)
	}
	if text := get(metrics); !strings.Contains(text, "audatex_relay_build_info") {
		t.Errorf("the metrics are %s", text)
	}

	// Ctrl-C ends it with the summary, and with what to try next.
	d.interrupt()
	if code := <-d.ended; code != exitOK {
		t.Errorf("exit code %d; stderr:\n%s", code, d.stderr)
	}
	rest := strings.Join(<-drained, "\n")
	if !strings.Contains(rest, "\nlost 0, misordered 0\n") || !strings.Contains(rest, "\nWhat to try next:\n") {
		t.Errorf("it ends with\n%s", rest)
	}
}

// A developer's receiver that refuses the first attempt: the relay tries again, and its records are
// what the demo judges by.
func TestDemoSendsToTheDevelopersReceiver(t *testing.T) {
	t.Parallel()
	var hook atomic.Pointer[standardwebhooks.Webhook]
	var taken, unverified atomic.Int64
	var refuse atomic.Bool
	refuse.Store(true)
	yours := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if h := hook.Load(); h == nil || h.Verify(body, r.Header) != nil {
			unverified.Add(1)
		}
		if refuse.CompareAndSwap(true, false) {
			http.Error(w, "not yet", http.StatusTeapot)
			return
		}
		taken.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer yours.Close()
	d := startDemo(t, "--sites", "leeds", "--callback", yours.URL+"/hook")
	d.until(`^  receiver +` + regexp.QuoteMeta(yours.URL) + `/hook$`)
	h, err := standardwebhooks.NewWebhook(d.until(`^  secret +(whsec_\S+)$`)[1])
	if err != nil {
		t.Fatal(err)
	}
	hook.Store(h)
	d.until(` 418, again at \d\d:\d\d:\d\d( |$)`)
	d.until(` 204 at attempt 2( |$)`)
	d.interrupt()
	summary := d.until(`^\d+ orders?, \d+ notifications?, (\d+) events?, (\d+) deliver(?:y|ies), 0 repeats$`)
	d.until(`^lost 0, misordered 0$`)
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d; stderr:\n%s", code, d.stderr)
	}
	if unverified.Load() != 0 || summary[1] != summary[2] || fmt.Sprint(taken.Load()) != summary[2] {
		t.Errorf("%d unverified, %d taken; the summary says %q", unverified.Load(), taken.Load(), summary[0])
	}
}

// A receiver that is not there has lost nothing: the relay keeps what it could not deliver, and the
// summary shows it. But nothing has been delivered, so the demo fails.
func TestDemoCountsWhatWaits(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	d := startDemo(t, "--for", "1s", "--sites", "leeds", "--callback", gone.URL)
	d.until(` connect_failed, again at `)
	d.until(` 0 deliveries, 0 repeats$`)
	d.until(`^lost 0, misordered 0, but nothing was delivered$`)
	d.until(`^\d+ waiting for your receiver$`)
	if code := d.end(); code != exitFailed {
		t.Errorf("exit code %d; stderr:\n%s", code, d.stderr)
	}
}

// A receiver that is broken for a while gets everything afterwards, and nothing twice.
func TestTheDemosReceiverCanBeBroken(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--rate", "120")
	toBreak := d.until(`^  curl -s -X POST (http://[\d.:]+/break)$`)[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	var posts sync.WaitGroup // the demo prints before it responds, so it must be read meanwhile
	for d.until(` (200|503)(?: |$)`)[1] == "200" {
		posts.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, toBreak, http.NoBody)
			if err != nil {
				t.Error(err)
				return
			}
			if answer, err := client.Do(r); err == nil { // one that comes too late finds no demo
				_ = answer.Body.Close()
			}
		})
	}
	d.interrupt()
	d.until(` 200 at attempt \d( |$)`)
	d.until(` 0 repeats$`)
	d.until(`^lost 0, misordered 0$`)
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d; stderr:\n%s", code, d.stderr)
	}
	posts.Wait()
}
