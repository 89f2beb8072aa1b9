package receivers

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// program is a receiver that runs; start runs it again.
type program struct {
	t       *testing.T
	of      language
	built   string
	data    string
	url     string // of the last start
	book    *harness.Logbook
	running []*harness.Process
}

func newProgram(t *testing.T, l language) *program {
	t.Helper()
	l.find(t)
	p := &program{t: t, of: l, built: t.TempDir(), data: t.TempDir(), book: &harness.Logbook{}}
	if l.build != nil {
		l.build(t, p.built)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("what the receiver wrote:\n%s", p.book.Text())
		}
	})
	return p
}

var listens = regexp.MustCompile(`http://127\.0\.0\.1:[1-9][0-9]*`)

// start starts the receiver, with its secrets, and waits until it listens. It gets another address each time.
func (p *program) start(secrets ...string) {
	p.t.Helper()
	before := len(listens.FindAll(p.book.Text(), -1))
	for i, command := range p.of.commands(p.built, "127.0.0.1:0", p.data) {
		process := p.run(command, "WEBHOOK_SECRET="+strings.Join(secrets, " "))
		if i > 0 {
			continue
		}
		harness.Eventually(p.t, "the receiver in "+p.of.name+" listens", func() string {
			select {
			case <-process.Exited:
				p.t.Fatalf("it ended: %v\n%s", process.Err, p.book.Text())
			default:
			}
			if found := listens.FindAllString(string(p.book.Text()), -1); len(found) > before {
				p.url = found[len(found)-1] + "/hooks/audatex"
				return ""
			}
			return "it does not say so"
		})
	}
}

// run starts a command.
func (p *program) run(command []string, env ...string) *harness.Process {
	p.t.Helper()
	env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+p.t.TempDir(), "LC_ALL=C.UTF-8")
	process := harness.StartProcess(p.t, command[0], command[1:], env, p.book)
	p.running = append(p.running, process)
	return process
}

// kill ends the receiver without a warning.
func (p *program) kill() {
	for _, process := range p.running {
		_ = process.Cmd.Process.Kill() // it may be gone
		<-process.Exited
	}
	p.running = nil
}

// printed returns what the receiver has worked on, in order, a line each.
func (p *program) printed() []string { return slices.Collect(strings.Lines(p.book.Printed())) }

// handled is the same without what it worked on twice in a row, as it may when it is killed.
func (p *program) handled() []string { return slices.Compact(p.printed()) }

// handles waits until the receiver works on something, which must be the n-th.
func (p *program) handles(n int, want string) {
	p.t.Helper()
	harness.Eventually(p.t, p.of.name+" works on "+want, func() string {
		if got := p.handled(); len(got) < n {
			return "it has worked on " + strings.Join(got, ", ")
		}
		return ""
	})
	if got := p.handled(); len(got) != n || strings.TrimSpace(got[n-1]) != want {
		p.t.Fatalf("the receiver in %s worked on %q, want %q as number %d", p.of.name, got, want, n)
	}
}
