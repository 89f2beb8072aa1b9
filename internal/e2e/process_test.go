package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"sync"
	"testing"
)

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	serves chan struct{} // closed once it says that it serves
	exited chan struct{} // closed once it is gone and its output is read
	err    error         // of the exit; read after exited

	at addresses // read after serves
}

// addresses are where the program says it listens.
type addresses struct {
	API     string `json:"api"`
	Metrics string `json:"metrics"`
	NATS    string `json:"nats"`
}

// logbook keeps what all runs of the program wrote.
type logbook struct {
	mu     sync.Mutex
	runs   []*bytes.Buffer
	stdout bytes.Buffer
}

// startProcess starts the program and does not wait for it.
func startProcess(t testing.TB, env []string, book *logbook) *process {
	t.Helper()
	p := &process{cmd: exec.Command(relayBinary(t), "serve"), serves: make(chan struct{}), exited: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.SysProcAttr = diesWithTest()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := book.begin()
	var reading sync.WaitGroup
	reading.Go(func() { p.read(stderr, book, log) })
	reading.Go(func() {
		b, _ := io.ReadAll(stdout) // ends with the process
		book.mu.Lock()
		defer book.mu.Unlock()
		book.stdout.Write(b)
	})
	go func() {
		reading.Wait()
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may be gone
		<-p.exited
	})
	return p
}

// read takes the log line by line and notices the one that says where the program listens.
func (p *process) read(r io.Reader, book *logbook, log *bytes.Buffer) {
	lines := bufio.NewReader(r)
	serving := false
	for {
		line, err := lines.ReadBytes('\n')
		book.mu.Lock()
		log.Write(line)
		book.mu.Unlock()
		if !serving && bytes.Contains(line, []byte(`"msg":"the relay serves"`)) && json.Unmarshal(line, &p.at) == nil {
			serving = true
			close(p.serves)
		}
		if err != nil {
			return
		}
	}
}

func (b *logbook) begin() *bytes.Buffer {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := &bytes.Buffer{}
	b.runs = append(b.runs, log)
	return log
}

// text answers all that was written, run after run.
func (b *logbook) text() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := bytes.Clone(b.stdout.Bytes())
	for _, log := range b.runs {
		all = append(all, log.Bytes()...)
	}
	return all
}

// tail answers the last n lines of the last run, for a failing test.
func (b *logbook) tail(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.runs) == 0 {
		return nil
	}
	lines := bytes.SplitAfter(b.runs[len(b.runs)-1].Bytes(), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// checkWellFormed fails unless every line is a JSON object: a panic, a data race or a library that writes past the log is
// none. Only the last line of a killed run may be cut off.
func (b *logbook) checkWellFormed(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stdout.Len() > 0 {
		t.Errorf("the relay wrote to its standard output: %.500q", b.stdout.Bytes())
	}
	for run, log := range b.runs {
		for line := range bytes.Lines(log.Bytes()) {
			if bytes.HasSuffix(line, []byte("\n")) && !json.Valid(line) {
				t.Errorf("run %d: the log has a line that is not JSON; it and what follows:\n%.3000s", run, log.Bytes()[bytes.Index(log.Bytes(), line):])
				break
			}
			if bytes.Contains(line, []byte(`"panic`)) || bytes.Contains(line, []byte("runtime error")) {
				t.Errorf("run %d: the log tells of a panic: %s", run, line)
			}
		}
	}
}

// exitCode answers how the process ended; it waits for that. -1 is a signal.
func (p *process) exitCode(t testing.TB) int {
	t.Helper()
	<-p.exited
	if p.err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) {
		t.Fatalf("the relay: %v", p.err)
	}
	return exit.ExitCode()
}
