package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// journey prints what happens, one line an event: when, which order, how long it took, what the receiver answered, what changed.
type journey struct {
	audit *audit

	mu       sync.Mutex
	over     bool // the summary is told: it is the last line
	out      io.Writer
	paint    palette
	width    int // of the terminal, 0 when there is none
	siteSpan int

	firstSite string
}

func newJourney(out io.Writer, sites []site, a *audit) *journey {
	width, terminal := terminalWidth(out)
	j := &journey{audit: a, out: out, paint: newPalette(terminal), width: width, siteSpan: len("site"), firstSite: sites[0].name}
	for _, s := range sites {
		j.siteSpan = max(j.siteSpan, len(s.name))
	}
	return j
}

// welcome says where everything is, ready to be pasted.
func (j *journey) welcome(at Addresses, key apiKey, target, secret string, own bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	receiver, whose := target+"  (verifies with the reference library of Standard Webhooks)", "a receiver that verifies"
	if !own {
		receiver, whose = target+"  (yours)", "your receiver"
	}
	fmt.Fprintf(j.out, "%s\n\n", j.paint.strong("The vendor's double (hostile by default), the relay with embedded NATS, and "+whose+". Ctrl-C ends it."))
	for _, l := range [][2]string{
		{"API", "http://" + at.API},
		{"API key", key.Key},
		{"try", fmt.Sprintf("curl -s -H 'Authorization: Bearer %s' 'http://%s/v1/events?limit=3'", key.Key, at.API)},
		{"metrics", "http://" + at.Metrics + "/metrics"},
		{"NATS", fmt.Sprintf("nats sub --server nats://%s --user %s --password %s 'audatex.%s.>'", at.NATS, key.ID, key.Key, j.firstSite)},
		{"receiver", receiver},
	} {
		fmt.Fprintf(j.out, "  %s %s\n", j.paint.dim(fmt.Sprintf("%-9s", l[0])), l[1])
	}
	if !own {
		fmt.Fprintf(j.out, "  %s %s\n", j.paint.dim("secret   "), secret+"  (verify the deliveries with it)")
	}
	fmt.Fprintln(j.out)
}

// header names the columns.
func (j *journey) header() {
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintln(j.out, j.paint.dim(j.row("time", "site", "order", "id", "to event", "to you", "answer")+"  what changed"))
}

// row lays the columns out; all widths are in characters.
func (j *journey) row(at, site, order, id, event, callback, answer string) string {
	return fmt.Sprintf("%-8s  %-*s  %-7s  %-8s  %8s  %8s  %-6s", at, j.siteSpan, site, order, id, event, callback, answer)
}

// delivered counts a delivery and tells it: whoever sees the count and then takes the lock finds it told.
func (j *journey) delivered(e event, at time.Time, answer string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.audit.arrived(e, at) {
		answer += ", a repeat"
	}
	j.tell(e, at, answer)
}

// attempted tells a delivery that is not done.
func (j *journey) attempted(e event, at time.Time, answer string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tell(e, at, answer)
}

// tell prints one attempt; the caller holds the lock.
func (j *journey) tell(e event, at time.Time, answer string) {
	if j.over {
		return
	}
	left := j.row(at.Local().Format(time.TimeOnly), e.Site, e.brief().OrderReference, short(e.Subject),
		brief(e.published().Sub(e.Time)), "+"+brief(at.Sub(e.published())), answer)
	changed := whatChanged(e, j.paint)
	if j.width > 0 && utf8.RuneCountInString(left)+2+utf8.RuneCountInString(whatChanged(e, palette{})) > j.width {
		changed = strings.Replace(changed, " · ", "\n"+strings.Repeat(" ", len(time.TimeOnly)+2), 1) // the status stays beside its order
	}
	fmt.Fprintln(j.out, left+"  "+changed)
}

// note tells something that is about no single event.
func (j *journey) note(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return
	}
	fmt.Fprintln(j.out, j.paint.dim(time.Now().Format(time.TimeOnly)+"  "+text))
}

// summary is the last line: what went in, what came out, what it took.
func (j *journey) summary(c sandbox.Counters, v verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	parts := []string{
		plural(int(c.OrdersCreated), "order"), plural(int(c.NotificationsHandedOut), "notification"), plural(v.events, "event"),
		plural(v.deliveries, "delivery"), plural(v.repeats, "repeat"),
	}
	verdict := fmt.Sprintf("lost %d, misordered %d", v.lost, v.misordered)
	for _, bad := range []struct {
		n    int
		what string
	}{{v.doubled, "doubled"}, {v.altered, "altered"}, {v.unverified, "unverified"}} {
		if bad.n > 0 {
			verdict += fmt.Sprintf(", %s %d", bad.what, bad.n)
		}
	}
	if v.broken() {
		verdict = j.paint.bad(verdict)
	} else {
		verdict = j.paint.good(verdict)
	}
	parts = append(parts, verdict)
	if v.waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d waiting for your receiver", v.waiting))
	}
	if v.failed > 0 {
		parts = append(parts, fmt.Sprintf("%d that your receiver refused for good", v.failed))
	}
	if v.events > 0 {
		parts = append(parts, fmt.Sprintf("vendor to callback p50 %s, p99 %s (from the event on p50 %s, p99 %s)",
			brief(v.toCallback.p50), brief(v.toCallback.p99), brief(v.sinceEvent.p50), brief(v.sinceEvent.p99)))
	}
	fmt.Fprintln(j.out, "\n"+strings.Join(parts, ", "))
	j.over = true
}

// short is enough of an order's id to find it again.
func short(id string) string { return id[:min(8, len(id))] }

// brief writes a duration as people say it.
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
