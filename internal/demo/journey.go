package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// widest is how many columns a line has at most: less on a narrower terminal.
const widest = 100

// printer prints what happens: what to try, a table with one row for each event, and a summary.
type printer struct {
	audit *receivedEvents

	mu       sync.Mutex
	over     bool // the summary is printed, and nothing more is
	out      io.Writer
	paint    palette
	width    int
	siteSpan int
	refusals map[string]int // by event: attempts that did not succeed

	firstSite string
}

func newPrinter(out io.Writer, sites []site, a *receivedEvents) *printer {
	width, terminal := terminalWidth(out)
	if width <= 0 || width > widest {
		width = widest
	}
	j := &printer{
		audit: a, out: out, paint: newPalette(terminal), width: width, siteSpan: len("site"),
		refusals: map[string]int{}, firstSite: sites[0].name,
	}
	for _, s := range sites {
		j.siteSpan = max(j.siteSpan, len(clip(s.name, mostSite)))
	}
	return j
}

// welcome prints what runs and what to try in another terminal, ready to be pasted. The secret is
// shown for a receiver of the user's.
func (j *printer) welcome(at Addresses, key apiKey, target, secret string, own bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	whose := "a receiver that verifies signatures"
	if !own {
		whose = "your receiver"
	}
	fmt.Fprintf(j.out, "%s\n", j.paint.strong("Orders move from the vendor to a receiver. Ctrl-C ends it."))
	fmt.Fprintf(j.out, "  a double of the vendor, hostile by default  ->  the relay  ->  %s\n", whose)
	if !own {
		fmt.Fprintf(j.out, "\n  receiver  %s\n  secret    %s\n", target, secret)
	}
	fmt.Fprintf(j.out, "\n%s\n", j.paint.strong("Try in another terminal:"))
	for _, line := range []string{
		"KEY=" + key.Key,
		fmt.Sprintf(`curl -s -H "Authorization: Bearer $KEY" 'http://%s/v1/events?limit=3'`, at.API),
		"curl -s http://" + at.Metrics + "/metrics",
		fmt.Sprintf(`nats sub --server nats://%s --user %s --password "$KEY" \`, at.NATS, key.ID),
		"  'audatex." + j.firstSite + ".>'",
	} {
		fmt.Fprintln(j.out, "  "+line)
	}
	if own {
		fmt.Fprintf(j.out, "\n%s\n  curl -s -X POST %s\n",
			j.paint.strong("Break the receiver for five seconds:"), target+breakPath)
	}
	fmt.Fprintln(j.out)
}

// header explains and names the columns.
func (j *printer) header() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range []string{
		"to relay:     from the vendor's notification to an event in the relay's log; it polls twice a second",
		"to receiver:  from there to the receiver, with the HTTP status of its answer",
		j.row("time", "site", "order", "to relay", "to receiver", "status") + "what changed",
	} {
		fmt.Fprintln(j.out, j.paint.dim(line))
	}
}

// mostSite is how much of a site's name is shown.
const mostSite = 12

// row lays the columns out, up to the one for what changed; all widths are in characters.
func (j *printer) row(at, site, order, toRelay, toReceiver, status string) string {
	return fmt.Sprintf("%-8s  %-*s  %-7s  %8s  %11s  %-6s  ",
		at, j.siteSpan, clip(site, mostSite), clip(order, 16), toRelay, toReceiver, status)
}

// delivered counts a delivery and prints it, with the lock held: a reader who sees the count and
// then takes the lock finds it printed.
func (j *printer) delivered(e ledger.Event, at time.Time, status string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.audit.arrived(e, at) {
		status += ", a repeat"
	}
	j.print(e, at, status, j.paint)
}

// afterRefusals returns the status of an event's first success, with how many attempts it took.
func (j *printer) afterRefusals(e ledger.Event, status string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := j.refusals[e.ID]; n > 0 {
		return fmt.Sprintf("%s at attempt %d", status, n+1)
	}
	return status
}

// attempted prints an attempt that did not succeed.
func (j *printer) attempted(e ledger.Event, at time.Time, status string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refusals[e.ID]++
	j.print(e, at, status, palette{})
}

// refusedLast reports whether an event was refused and has not been delivered since.
func (j *printer) refusedLast() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id := range j.refusals {
		if !j.audit.has(id) {
			return true
		}
	}
	return false
}

// print prints one attempt; the caller holds the lock.
func (j *printer) print(e ledger.Event, at time.Time, status string, paint palette) {
	if j.over {
		return
	}
	line := j.row(at.Local().Format(time.TimeOnly), e.Site, briefOf(e).OrderReference, brief(published(e).Sub(e.Time)),
		brief(at.Sub(published(e))), status)
	used, plain := utf8.RuneCountInString(line), whatChanged(e, palette{})
	for i, text := range whatChanged(e, paint) {
		text, size := clipPainted(text, plain[i], j.width-changesIndent)
		switch {
		case i == 0 && used+size <= j.width:
			line += text
		case i > 0 && used+3+size <= j.width:
			line += " · " + text
			size += 3
		default:
			fmt.Fprintln(j.out, strings.TrimRight(line, " "))
			line, used = strings.Repeat(" ", changesIndent)+text, changesIndent
		}
		used += size
	}
	fmt.Fprintln(j.out, line)
}

// changesIndent is where the changes go on that find no room beside their order: below the site.
const changesIndent = len(time.TimeOnly) + 2

// clip returns at most n characters of a text.
func clip(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

// clipPainted returns a text that may have colours, or as much of its plain form as n characters
// hold, and its width.
func clipPainted(text, plain string, n int) (string, int) {
	if size := utf8.RuneCountInString(plain); size <= n {
		return text, size
	}
	return clip(plain, n), n
}

// note prints something that is about no single event.
func (j *printer) note(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return
	}
	fmt.Fprintln(j.out, j.paint.dim(clip(time.Now().Format(time.TimeOnly)+"  "+text, j.width)))
}

// summary prints what went in, what came out, what it took, and what to try next.
func (j *printer) summary(c sandbox.Counters, v verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintf(j.out, "\n%s, %s, %s, %s, %s\n", plural(int(c.OrdersCreated), "order"),
		plural(int(c.NotificationsHandedOut), "notification"), plural(v.events, "event"),
		plural(v.deliveries, "delivery"), plural(v.repeats, "repeat"))
	fmt.Fprintln(j.out, j.judgement(v))
	if v.waiting > 0 {
		fmt.Fprintf(j.out, "%d waiting for your receiver\n", v.waiting)
	}
	if v.failed > 0 {
		fmt.Fprintf(j.out, "%d that your receiver refused for good\n", v.failed)
	}
	if v.deliveries > 0 {
		fmt.Fprintf(j.out, "from the vendor to the receiver: half within %s, 99 %% within %s\n",
			brief(v.toCallback.p50), brief(v.toCallback.p99))
		fmt.Fprintf(j.out, "from the relay to the receiver:  half within %s, 99 %% within %s\n",
			brief(v.sinceEvent.p50), brief(v.sinceEvent.p99))
	}
	fmt.Fprintf(j.out, "\n%s\n%s", j.paint.strong("What to try next:"), `  --faults          the vendor refuses, slows down and asks to wait
  --callback URL    send to a receiver of yours, and stop it for a while
  docs/try.md       vendor, relay and receiver as three programs, and how to break each of them
  README.md         the event, the settings, and where everything else is
`)
	j.over = true
}

// judgement returns what was kept of the relay's promises: red if one was broken or nothing was
// delivered, else green.
func (j *printer) judgement(v verdict) string {
	text := fmt.Sprintf("lost %d, misordered %d", v.Lost, v.Misordered)
	for _, bad := range []struct {
		n    int
		what string
	}{{v.Doubled, "doubled"}, {v.Altered, "altered"}, {v.unverified, "unverified"}} {
		if bad.n > 0 {
			text += fmt.Sprintf(", %s %d", bad.what, bad.n)
		}
	}
	if v.deliveries == 0 {
		text += ", but nothing was delivered"
	}
	if v.broken() || v.deliveries == 0 {
		return j.paint.bad(text)
	}
	return j.paint.good(text)
}

// brief writes a duration with three or fewer digits.
func brief(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}
