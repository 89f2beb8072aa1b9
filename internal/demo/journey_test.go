package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
)

func TestWhatChanged(t *testing.T) {
	t.Parallel()
	const order = `"order":{"Status":"Confirmed","Parts":[{},{},{}]}`
	part := func(number, field, from, to string) string {
		return `{"path":"/Parts/0` + field + `","part":{"oePartNumber":"` + number +
			`","orderedPartNumber":"x","occurrence":1},"from":` + from + `,"to":` + to + `}`
	}
	const status = `{"path":"/Status","from":"New","to":"Confirmed"}`
	for _, c := range []struct{ name, data, want string }{
		{"first sight", `"previousStatus":null,"changes":[]`, "Confirmed · 3 parts"},
		{"nothing", `"previousStatus":"Confirmed","changes":[]`, "Confirmed · nothing new since the event before"},
		{"status alone", `"previousStatus":"New","changes":[` + status + `]`, "New → Confirmed"},
		{"with some parts", `"previousStatus":"New","changes":[` + status + `,` +
			part("A", "/Status", `"New"`, `"Confirmed"`) + `,` + part("B", "/Status", `"New"`, `"Confirmed"`) + `]`,
			"New → Confirmed with 2 of 3 parts"},
		{"a part its own way", `"previousStatus":"New","changes":[` + status + `,` +
			part("8K0 807", "/Status", `"New"`, `"Cancelled"`) + `]`,
			"New → Confirmed · part 8K0 807 New → Cancelled"},
		{"a price, digits as they came",
			`"previousStatus":"Confirmed","changes":[` + part("8K0 807", "/Price", `12.50`, `13.0`) + `]`,
			"Confirmed · part 8K0 807 Price 12.50 → 13.0"},
		{"a date", `"previousStatus":"Confirmed","changes":[{"path":"/DeliveryDate","from":"0001-01-01T00:00:00",` +
			`"to":"2026-01-17T08:30:00.1234567"}]`,
			"Confirmed · DeliveryDate none → 2026-01-17"},
		{"parts come and go", `"previousStatus":"Confirmed","changes":[` + part("A", "", `null`, `{"a":1}`) +
			`,{"path":"/Parts/-","part":{"oePartNumber":"B"},"from":{"b":1},"to":null}]`,
			"Confirmed · part A new · part B gone"},
		{"a part without the maker's number",
			`"previousStatus":"Confirmed","changes":[` + part("", "/Note", `null`, `""`) + `]`,
			`Confirmed · part x Note none → ""`},
		{"many",
			`"previousStatus":"Confirmed","changes":[{"path":"/A","from":1,"to":2},{"path":"/B","from":1,"to":2},` +
				`{"path":"/C","from":1,"to":2},{"path":"/D","from":1,"to":2}]`,
			"Confirmed · A 1 → 2 · B 1 → 2 · 2 more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := ledger.ParseEvent([]byte(`{"sequence":"1","data":{` + order + `,` + c.data + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(whatChanged(e, palette{}), " · "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := strings.Join(whatChanged(e, palette{on: true}), " · "); !strings.Contains(got,
				"\x1b[34mConfirmed\x1b[0m") {
				t.Errorf("%q has no colour", got)
			}
		})
	}
}

func TestRowsAreAsWideAsTheTerminal(t *testing.T) {
	t.Parallel()
	e, err := ledger.ParseEvent([]byte(`{"id":"e","subject":"5f0c12ab-0000","site":"leeds","sequence":"1768469924687150","time":"2026-01-15T09:38:44Z",
		"data":{"order":{"OrderReference":"PO-1001","Status":"New","Parts":[{}]},"previousStatus":null,"changes":[]}}`))
	if err != nil {
		t.Fatal(err)
	}
	lines := func(width int, status string) []string {
		var out bytes.Buffer
		j := newPrinter(&out, []site{{name: "leeds"}}, newReceivedEvents())
		j.width = width
		j.delivered(e, published(e).Add(3*time.Millisecond), status)
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	wide := lines(widest, "200")
	if len(wide) != 1 || !strings.HasSuffix(wide[0], "leeds  PO-1001    687 ms       3.0 ms  200     New · 1 part") {
		t.Errorf("at %d columns: %q", widest, wide)
	}
	if got := lines(utf8.RuneCountInString(wide[0]), "200"); len(got) != 1 {
		t.Errorf("at its own width: %q", got)
	}
	if got := lines(66, "200"); len(got) != 2 || !strings.HasSuffix(got[0], "  New") || got[1] != "          1 part" {
		t.Errorf("at 66 columns: %q", got)
	}
	if got := lines(66, "connect_failed, again at 09:38:46"); len(got) != 2 || got[1] != "          New · 1 part" {
		t.Errorf("with a long status: %q", got)
	}
}

// README.md shows the table as it is printed.
func TestTheReadmeShowsTheTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	newPrinter(&out, []site{{name: "leeds"}}, newReceivedEvents()).header()
	if !strings.Contains(string(page), "```text\n"+out.String()) {
		t.Errorf("README.md does not show\n%s", out.String())
	}
}

func TestNothingIsGreenWhenNothingWasDelivered(t *testing.T) {
	t.Parallel()
	const green, red = "\x1b[32m", "\x1b[1;31m"
	e, err := ledger.ParseEvent([]byte(`{"id":"e","subject":"5f0c12ab","site":"leeds","sequence":"1768469924687150",
		"data":{"order":{"OrderReference":"PO-1001","Status":"Delivered"},"previousStatus":"Dispatched","changes":[]}}`))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	seen := newReceivedEvents()
	j := newPrinter(&out, []site{{name: "leeds"}}, seen)
	j.paint = palette{on: true}
	j.attempted(e, time.Now(), "503")
	j.summary(sandbox.Counters{}, seen.judge(sandbox.Ledger{}))
	if strings.Contains(out.String(), green) ||
		!strings.Contains(out.String(), red+"lost 0, misordered 0, but nothing was delivered") {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	j.over = false
	j.delivered(e, time.Now(), "200")
	j.summary(sandbox.Counters{}, seen.judge(sandbox.Ledger{}))
	if !strings.Contains(out.String(), green+"Delivered") || strings.Contains(out.String(), "nothing was delivered") {
		t.Errorf("%q", out.String())
	}
}

func TestNothingIsToldBehindTheSummary(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	seen := newReceivedEvents()
	j := newPrinter(&out, []site{{name: "leeds"}}, seen)
	j.delivered(ledger.Event{ID: "a"}, time.Now(), "200")
	j.summary(sandbox.Counters{}, seen.judge(sandbox.Ledger{}))
	told := out.String()
	j.delivered(ledger.Event{ID: "b"}, time.Now(), "200")
	j.attempted(ledger.Event{ID: "c"}, time.Now(), "500")
	j.note("the receiver is gone")
	if out.String() != told || !strings.Contains(told, "1 delivery, ") {
		t.Errorf("told %q, with what came after the summary %q", told, out.String())
	}
}

func TestColoursAreForTerminalsThatWantThem(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if newPalette(false).on || !newPalette(true).on {
		t.Error("colours must be on at a terminal and off elsewhere")
	}
	t.Setenv("TERM", "dumb")
	if newPalette(true).on {
		t.Error("a dumb terminal gets colours")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if newPalette(true).on {
		t.Error("NO_COLOR is not honoured")
	}
	if _, terminal := terminalWidth(&bytes.Buffer{}); terminal {
		t.Error("a buffer is taken for a terminal")
	}
}
