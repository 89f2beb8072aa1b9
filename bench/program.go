package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const adminToken = "bench-admin-token-0123456789"

// ticks is what /proc counts CPU time in: a hundredth of a second on every Linux.
const ticks = 100

// program is a running relay.
type program struct {
	cmd     *exec.Cmd
	api     string
	metrics string
	ready   time.Duration // from its start to "the relay serves"
	output  sync.WaitGroup
}

// start runs the relay on a data directory until it serves.
func (b *bench) start(data string, env ...string) (*program, error) {
	return b.startUnder(0, data, env...)
}

// startUnder is start with a limit of file descriptors; 0 leaves the one there is.
func (b *bench) startUnder(descriptors int, data string, env ...string) (*program, error) {
	args := []string{b.binary, "serve"}
	if descriptors > 0 {
		args = append([]string{"sh", "-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(descriptors)}, args...)
	}
	if b.profile != "" { // written when the relay stops
		args = append(args, "--cpuprofile", filepath.Join(b.profile, filepath.Base(data)+".pprof"))
	}
	p := &program{cmd: exec.CommandContext(b.ctx, args[0], args[1:]...)} //nolint:gosec // the binary that was built above
	p.cmd.Env = append(os.Environ(), append([]string{
		"RELAY_ADMIN_TOKEN=" + adminToken, "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0", "RELAY_DATA_DIR=" + data,
		"RELAY_AUDATEX_CLIENT_ID=sandbox-client", "RELAY_AUDATEX_CLIENT_SECRET=sandbox-secret", "RELAY_AUDATEX_RATE=10000000",
		"RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8", "RELAY_LOG_LEVEL=info",
	}, env...)...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the relay: %w", err)
	}
	serves := make(chan bool, 1)
	p.output.Go(func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line struct{ Level, Msg, API, Metrics string }
			if json.Unmarshal(lines.Bytes(), &line) != nil || line.Level == "ERROR" {
				fmt.Fprintln(os.Stderr, "relay:", lines.Text())
			}
			if line.Msg == "the relay serves" {
				p.ready, p.api, p.metrics = time.Since(began), "http://"+line.API, "http://"+line.Metrics
				serves <- true
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
		close(serves)
	})
	if !<-serves {
		return nil, errors.Join(errors.New("the relay did not come to serve"), p.cmd.Wait())
	}
	return p, nil
}

// stop ends the relay by a signal and waits.
func (p *program) stop(signal syscall.Signal) error {
	_ = p.cmd.Process.Signal(signal)
	p.output.Wait()
	err := p.cmd.Wait()
	if signal == syscall.SIGKILL {
		return nil
	}
	return err
}

// put makes a PUT request to the API as the administrator.
func (p *program) put(ctx context.Context, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.api+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode >= 300 {
		return fmt.Errorf("PUT %s: %s: %s", path, answer.Status, text)
	}
	return nil
}

// callback registers one.
func (b *bench) callback(p *program, id, path, from string, concurrency int) error {
	return p.put(b.ctx, "/v1/callbacks/"+id, map[string]any{
		"url": b.receiver.base + "/" + path, "startFrom": from, "concurrency": concurrency, "timeoutSeconds": 5,
	})
}

// usage returns the CPU seconds that the relay has used and the most memory it had, in MiB.
func (p *program) usage() (cpu, peak float64, err error) { return usageOf(p.cmd.Process.Pid) }

func usageOf(pid int) (cpu, peak float64, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc(5): utime and stime are 14 and 15
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	status, err3 := os.ReadFile(filepath.Join(proc, "status"))
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			peak, err = strconv.ParseFloat(strings.Fields(kib)[0], 64)
		}
	}
	return (user + system) / ticks, peak / 1024, errors.Join(err, err1, err2, err3)
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
