package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// Process is one run of the program.
type Process struct {
	Cmd    *exec.Cmd
	Serves chan struct{} // closed once it reports that it serves
	Exited chan struct{} // closed once it is gone and its output is read
	Err    error         // of the exit; read after exited

	At addresses // read after serves

	book *Logbook
}

// addresses are where the program listens, as it reports.
type addresses struct {
	API     string `json:"api"`
	Metrics string `json:"metrics"`
	NATS    string `json:"nats"`
}

// Logbook keeps what all runs of the program wrote.
type Logbook struct {
	mu     sync.Mutex
	runs   []*bytes.Buffer
	stdout bytes.Buffer
}

// StartProcess starts a program and does not wait for it.
func StartProcess(t testing.TB, path string, args, env []string, book *Logbook) *Process {
	t.Helper()
	p := &Process{
		Cmd: exec.CommandContext(context.Background(), path, args...), book: book,
		Serves: make(chan struct{}), Exited: make(chan struct{}),
	}
	p.Cmd.Env = env
	p.Cmd.SysProcAttr = DiesWithTest()
	stderr, err := p.Cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := book.begin()
	var reading sync.WaitGroup
	reading.Go(func() { p.read(stderr, log) })
	reading.Go(func() { _, _ = io.Copy(printed{book}, stdout) }) // ends with the process
	go func() {
		reading.Wait()
		p.Err = p.Cmd.Wait()
		close(p.Exited)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill() // it may be gone
		<-p.Exited
	})
	return p
}

// AwaitServing waits until the program reports that it serves. It fails if the program, which it
// calls by a name, ends instead.
func (p *Process) AwaitServing(t testing.TB, name string) {
	t.Helper()
	select {
	case <-p.Serves:
	case <-p.Exited:
		t.Fatalf("%s ended instead of serving: %v\n%s", name, p.Err, p.book.Tail(40))
	case <-time.After(Patience):
		t.Fatalf("%s does not serve within %s\n%s", name, Patience, p.book.Tail(40))
	}
}

// read takes the log line by line and notices the line that shows where the program listens.
func (p *Process) read(r io.Reader, log *bytes.Buffer) {
	lines := bufio.NewReader(r)
	serving := false
	for {
		line, err := lines.ReadBytes('\n')
		p.book.mu.Lock()
		log.Write(line)
		p.book.mu.Unlock()
		if !serving && bytes.Contains(line, []byte(`"msg":"the relay serves"`)) && json.Unmarshal(line, &p.At) == nil {
			serving = true
			close(p.Serves)
		}
		if err != nil {
			return
		}
	}
}

func (b *Logbook) begin() *bytes.Buffer {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := &bytes.Buffer{}
	b.runs = append(b.runs, log)
	return log
}

// printed keeps what a program writes to its standard output.
type printed struct{ book *Logbook }

func (p printed) Write(b []byte) (int, error) {
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	return p.book.stdout.Write(b)
}

// Printed returns what all runs have written to their standard output so far.
func (b *Logbook) Printed() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stdout.String()
}

// Text returns all that was written, run after run.
func (b *Logbook) Text() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := bytes.Clone(b.stdout.Bytes())
	for _, log := range b.runs {
		all = append(all, log.Bytes()...)
	}
	return all
}

// Names returns the last run whose log has a word, -1 if none has.
func (b *Logbook) Names(word string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for run := len(b.runs) - 1; run >= 0; run-- {
		if bytes.Contains(b.runs[run].Bytes(), []byte(word)) {
			return run
		}
	}
	return -1
}

// Tail returns the last n lines of the last run, for a failing test.
func (b *Logbook) Tail(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.runs) == 0 {
		return nil
	}
	lines := bytes.SplitAfter(b.runs[len(b.runs)-1].Bytes(), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// Malformed returns every run's first line that is not a JSON object, and every one that has a
// panic: a panic, a data race or a library that writes past the log is none. Only the last line of
// a killed run may be cut off.
func (b *Logbook) Malformed() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var problems []string
	if b.stdout.Len() > 0 {
		problems = append(problems, fmt.Sprintf("the relay wrote to its standard output: %.500q", b.stdout.Bytes()))
	}
	for run, log := range b.runs {
		at := 0
		for line := range bytes.Lines(log.Bytes()) {
			begin := at
			at += len(line)
			if bytes.HasSuffix(line, []byte("\n")) && !json.Valid(line) {
				problems = append(problems, fmt.Sprintf("run %d: the log has a line that is not JSON; it and what "+
					"follows:\n%.3000s", run, log.Bytes()[begin:]))
				break
			}
			if bytes.Contains(line, []byte(`"panic`)) || bytes.Contains(line, []byte("runtime error")) {
				problems = append(problems, fmt.Sprintf("run %d: the log has a panic: %s", run, line))
			}
		}
	}
	return problems
}

// CheckWellFormed fails for everything that Malformed returns.
func (b *Logbook) CheckWellFormed(t *testing.T) {
	t.Helper()
	for _, problem := range b.Malformed() {
		t.Error(problem)
	}
}

// ExitCode returns how the process ended; it waits for that. -1 is a signal.
func (p *Process) ExitCode(t testing.TB) int {
	t.Helper()
	<-p.Exited
	if p.Err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(p.Err, &exit) {
		t.Fatalf("the relay: %v", p.Err)
	}
	return exit.ExitCode()
}

// Build builds a program of this module or of one it depends on; dir is the module's root. It is
// built without the race detector, which would change the moments that kills hit, and is too slow
// for several processes on few cores.
func Build(ctx context.Context, dir, program, out string, flags ...string) error {
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, program)...) //nolint:gosec // the tests' own words
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", program, err, said)
	}
	return nil
}
