package natsd_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/topology"
)

// The programs of docs/nats.md do what the page promises.
func TestTheDocumentedPrograms(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/nats.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := strings.Split(string(text), "```go\n")[1:]
	if len(programs) != 2 {
		t.Fatalf("%d programs", len(programs))
	}
	b := newBus(t)
	// Each prints a line when it is ready: the first then hears what comes, the second has what came before as well.
	for i, name := range []string{"live", "durable"} {
		source, _, _ := strings.Cut(programs[i], "```")
		lines := b.run(name, source)
		ready := <-lines
		if want := map[string]string{"live": "listening",
			"durable": fmt.Sprintf(`{"stream":"EVENTS","consumer":%q}`, b.allID)}[name]; ready != want {
			t.Errorf("%s says %q, not %q", name, ready, want)
		}
		want := topology.OrderSubject("leeds", "updated", order)
		if name == "live" {
			b.publish("leeds", 0)
			want = "1 " + want
		}
		if line := <-lines; !strings.HasPrefix(line, want+" {") {
			t.Errorf("%s prints %q", name, line)
		}
	}
}

// run builds a program with this module and runs it as the key of all sites until the test ends.
func (b *bus) run(name, source string) <-chan string {
	b.t.Helper()
	dir := b.t.TempDir()
	file, binary := filepath.Join(dir, name+".go"), filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if out, err := exec.CommandContext(b.t.Context(), "go", "build", "-o", binary, file).CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	program := exec.CommandContext(ctx, binary)
	program.Env = append(os.Environ(), "NATS_URL=nats://"+b.server.Addr(), "NATS_USER="+b.allID, "NATS_PASSWORD="+b.all)
	program.Stderr = os.Stderr
	out, err := program.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		b.t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		for range lines {
			continue // to its end
		}
		_ = program.Wait() // killed
	})
	return lines
}
