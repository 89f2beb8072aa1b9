package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
)

// TestMain makes the test binary stand in for the program, so that scripts run it as its users do.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"relay": main})
}

// leakless fails a run that left goroutines behind.
type leakless struct{ tests *testing.M }

func (l leakless) Run() int {
	natstest.Waiting(6)
	code := l.tests.Run()
	if code == 0 {
		if err := goleak.Find(natstest.Leftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// TestScripts runs the program as its users do: one file of testdata/script a behaviour.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would make each program linger for a second
			e.Setenv("RELAY_ADMIN_TOKEN", "an-admin-token-for-scripts")
			e.Setenv("RELAY_AUDATEX_CLIENT_ID", "sandbox-client")
			e.Setenv("RELAY_AUDATEX_CLIENT_SECRET", "sandbox-secret")
			e.Setenv("RELAY_HTTP_ADDR", "127.0.0.1:0")
			e.Setenv("RELAY_METRICS_ADDR", "127.0.0.1:0")
			withNATS(e)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "terminate": terminate, "await": await, "logged": logged, "fetch": fetch, "occupy": occupy,
			"register": register, "known": known, "freeport": freePort, "natsserver": natsServer, "refused": refused,
			"filelimit": fileLimit,
		},
	})
}

// exits CODE PROGRAM ARGS… runs a program that must end with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program args…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ended *exec.ExitError
		if !errors.As(err, &ended) {
			ts.Fatalf("run %v: %v", args[1:], err)
		}
		code = ended.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// terminate sends SIGTERM to everything in the background; wait then judges how it ended.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: terminate")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}

// await FILE REGEXP waits until a line of a file that is being written matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await file regexp")
	}
	want := regexp.MustCompile("(?m)" + args[1])
	eventually(ts, func() error {
		raw, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && !want.Match(raw) {
			err = fmt.Errorf("%s does not match %s:\n%s", args[0], args[1], raw)
		}
		return err
	})
}

// logged FILE KEY VARIABLE waits for a log line with the key and puts its value into an environment
// variable.
func logged(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: logged file key variable")
	}
	eventually(ts, func() error {
		f, err := os.Open(ts.MkAbs(args[0]))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil && line[args[1]] != nil {
				ts.Setenv(args[2], fmt.Sprint(line[args[1]]))
				return nil
			}
		}
		return fmt.Errorf("no line of %s has %s", args[0], args[1])
	})
}

// fetch URL STATUS [REGEXP] gets a page. @FILE is an address in a file.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: fetch url status [regexp]")
	}
	address := args[0]
	if file, ok := strings.CutPrefix(address, "@"); ok {
		address = strings.TrimSpace(ts.ReadFile(file))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get(address)
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	ts.Check(err)
	if strconv.Itoa(answer.StatusCode) != args[1] {
		ts.Fatalf("%s: status %d, want %s: %s", address, answer.StatusCode, args[1], body)
	}
	if len(args) == 3 && !regexp.MustCompile(args[2]).Match(body) {
		ts.Fatalf("%s: no match for %s: %s", address, args[2], body)
	}
}

// register HOST:PORT ID makes a callback, whose secret is then in the store.
func register(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: register host:port id")
	}
	request, err := http.NewRequest(http.MethodPut, "http://"+args[0]+"/v1/callbacks/"+args[1],
		strings.NewReader(`{"url":"https://bms.example/"}`))
	ts.Check(err)
	request.Header.Set("Authorization", "Bearer "+ts.Getenv("RELAY_ADMIN_TOKEN"))
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Do(request)
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusCreated {
		ts.Fatalf("the callback was not made: status %d", answer.StatusCode)
	}
}

// known HOST:PORT ID fails unless there is such a callback.
func known(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: known host:port id")
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+args[0]+"/v1/callbacks/"+args[1], http.NoBody)
	ts.Check(err)
	request.Header.Set("Authorization", "Bearer "+ts.Getenv("RELAY_ADMIN_TOKEN"))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Do(request)
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		ts.Fatalf("callback %s: status %d", args[1], answer.StatusCode)
	}
}

// occupy VARIABLE listens on a free port until the script ends and puts host:port into an
// environment variable.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy variable")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv(args[0], listener.Addr().String())
}

// eventually tries until it works, for as long as a slow machine may need.
func eventually(ts *testscript.TestScript, try func() error) {
	deadline, tick := time.After(90*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s", strings.TrimSpace(err.Error()))
		case <-tick.C:
		}
	}
}
