package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// commandsOf returns the blocks of commands of a document, in their order. It fails if there are
// fewer than atLeast.
func commandsOf(t *testing.T, document string, atLeast int) []string {
	t.Helper()
	for _, name := range []string{"bash", "curl", "jq", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("the commands of %s need %s, which is not here", document, name)
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, block[1])
	}
	if len(blocks) < atLeast {
		t.Fatalf("only %d blocks of commands were found in %s", len(blocks), document)
	}
	return blocks
}

// freeAddress returns an address of this machine that nobody listened at just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// shell is one bash that is typed into.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
	n   int
}

func startShell(t *testing.T, dir string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "-m") // with jobs, as where somebody types
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = io.WriteString(in, "\nkill $(jobs -p) 2>/dev/null; wait; exit\n")
		_ = in.Close()
		go func() { _, _ = io.Copy(io.Discard, read) }()
		_ = cmd.Wait()
		_ = write.Close()
	})
	return &shell{t: t, in: in, out: bufio.NewReader(read)}
}

// run types commands and returns what they print. Each must succeed.
func (s *shell) run(commands string) string {
	s.t.Helper()
	s.n++
	end := fmt.Sprintf("end-of-block-%d", s.n)
	if _, err := fmt.Fprintf(s.in, "set -o pipefail\n%s\nstatus=$?; echo; echo %s $status\n",
		commands, end); err != nil {
		s.t.Fatal(err)
	}
	printed := make(chan string, 1)
	go func() {
		var all strings.Builder
		for {
			line, err := s.out.ReadString('\n')
			if status, found := strings.CutPrefix(line, end+" "); found || err != nil {
				if strings.TrimSpace(status) != "0" {
					all.WriteString("\nexit status " + status)
				}
				printed <- all.String()
				return
			}
			all.WriteString(line)
		}
	}()
	select {
	case out := <-printed:
		if strings.Contains(out, "exit status") || strings.Contains(out, "curl: (") ||
			strings.Contains(out, "command not found") || strings.Contains(out, "parse error") {
			s.t.Fatalf("%s\nprinted: %s", commands, out)
		}
		return out
	case <-time.After(harness.Patience):
		s.t.Fatalf("this does not end:\n%s", commands)
		return ""
	}
}
