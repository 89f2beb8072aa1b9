package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// laptop is a fresh shell for the commands of a document, with the programs built already and ports
// of its own.
type laptop struct {
	*shell
	dir     string
	replace *strings.Replacer
}

func newLaptop(t *testing.T) laptop {
	t.Helper()
	dir := t.TempDir()
	l := laptop{shell: startShell(t, dir)}
	built := "mkdir try && ln -s " + relayBinary(t)
	replace := []string{
		"go build -o try/ ./cmd/relay ./examples/receiver", built + " " + filepath.Join(dir, "receiver") + " try",
		"go build -o try/ ./cmd/relay", built + " try",
	}
	for _, port := range []string{"8080", "8090", "9464", "3000"} {
		address := freeAddress(t)
		replace = append(replace, "127.0.0.1:"+port, address)
		if port == "8090" {
			l.shell.run("set -u; export RELAY_SANDBOX_ADDR=" + address)
		}
	}
	l.dir, l.replace = dir, strings.NewReplacer(replace...)
	return l
}

func (l laptop) run(block string) string {
	l.t.Helper()
	return l.shell.run(l.replace.Replace(block))
}

// README.md's commands run when they are pasted into a fresh shell, from top to bottom.
func TestTheQuickStartRuns(t *testing.T) {
	t.Parallel()
	blocks := commandsOf(t, "README.md", 7)
	l := newLaptop(t)
	l.shell.run(`nats() { test $# = 8; }`) // what only its own program can run
	event := false
	for _, block := range blocks {
		if block == "go run ./cmd/relay demo\n" || block == "go test -race ./...\n" {
			continue
		}
		out := l.run(block)
		if strings.Contains(block, "/events?") {
			event = true
			if !strings.Contains(out, `"type": "audatex.parts.order.created"`) ||
				!strings.Contains(out, `"OrderReference": "PO-1"`) {
				t.Errorf("the event that a stranger reads: %s", out)
			}
		}
	}
	if !event {
		t.Error("no event is read")
	}
}

// docs/try.md brings an order to a receiver, and through all that it proposes to break.
func TestTheRelayOnALaptop(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "try.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, promised, _ := strings.Cut(string(page), "```text\n")
	promised, _, _ = strings.Cut(promised, "```")
	l := newLaptop(t)
	if err := harness.Build(t.Context(), filepath.Join("..", ".."), "./examples/receiver",
		filepath.Join(l.dir, "receiver")); err != nil {
		t.Fatal(err)
	}
	arrived := false
	for i, block := range commandsOf(t, "docs/try.md", 10) {
		out := l.run(block)
		if strings.HasSuffix(block, "cat receiver.log\n") {
			arrived = true
			if i != 4 || promised == "" || !strings.HasSuffix(strings.TrimSpace(out), strings.TrimSpace(promised)) {
				t.Errorf("the command %d shows\n%s, not\n%s", i+1, out, promised)
			}
		}
	}
	if !arrived {
		t.Error("what has arrived is never shown")
	}
}

// The commands of docs/receiving.md work for a client of the relay that docs/try.md starts.
func TestReceivingByHand(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	for i, block := range commandsOf(t, "docs/try.md", 10)[:3] { // the vendor, the relay, and a site
		if i == 0 {
			block = strings.Replace(block, "./cmd/relay ./examples/receiver", "./cmd/relay", 1)
		}
		l.run(block)
	}
	l.run(`curl -fsS $SANDBOX/orders -d '{"site":"4711","orderReference":"PO-1"}' >/dev/null
api -X PUT $RELAY/clients/acme -d '{"sites":["leeds"]}' >/dev/null
KEY=$(api -X POST $RELAY/clients/acme/keys -d '{"role":"write"}' | jq -r .key)
RELAY=http://127.0.0.1:8080
until api "$RELAY/v1/events" | jq -e '.items[0]' >/dev/null; do sleep 0.2; done`)
	blocks := commandsOf(t, "docs/receiving.md", 3)
	for i, want := range []string{"audatex.parts.order.created leeds PO-1 New\n", "whsec_", "1\n", "PO-1 New\n"} {
		if out := l.run(blocks[i]); !strings.Contains(out, want) {
			t.Errorf("the command %d of docs/receiving.md shows\n%s, not %s", i+1, out, want)
		}
	}
	if out := l.run(strings.Replace(blocks[0], "waitSeconds=30", "waitSeconds=0", 1)); strings.Contains(out, "PO-1") {
		t.Errorf("what was read comes again: %s", out)
	}
}

// The commands of docs/sandbox.md work on a sandbox that is as hostile as it can be.
func TestTheSandboxByHand(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	l.run("go build -o try/ ./cmd/relay && cd try\n./relay sandbox >vendor.env 2>sandbox.log &\n" +
		"until grep -q CLIENT_SECRET vendor.env; do sleep 0.2; done\nSANDBOX=http://127.0.0.1:8090")
	for _, block := range commandsOf(t, "docs/sandbox.md", 6) {
		l.run(block)
	}
}

// README.md lists every setting of the service, under its own name or that of the setting that it
// belongs to.
func TestEverySettingIsInTheReadme(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), relayBinary(t), "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`\$(RELAY_[A-Z_]+)`)
	listed, settings := map[string]bool{}, 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| `RELAY_") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], "|")
		first := ""
		for _, name := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(cell, -1) {
			if strings.HasPrefix(name[1], "RELAY_") {
				first = name[1]
			}
			listed[name[1]], listed[first+name[1]] = true, true // RELAY_X_FILE
			if i := strings.LastIndex(first, "_BASE_URL"); i > 0 {
				listed[first[:i]+name[1]] = true // RELAY_X_AUTH_URL
			}
		}
	}
	for _, m := range variable.FindAllStringSubmatch(string(help), -1) {
		if settings++; !listed[m[1]] {
			t.Errorf("README.md does not list %s", m[1])
		}
	}
	if settings < 30 {
		t.Errorf("only %d settings were found", settings)
	}
}
