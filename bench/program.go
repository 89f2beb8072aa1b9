package main

import (
	"bufio"
	"bytes"
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

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

const adminToken = "bench-admin-token-0123456789"

// ticks is what /proc counts CPU time in: a hundredth of a second on every Linux.
const ticks = 100

// program is a running relay.
type program struct {
	cmd    *exec.Cmd
	api    harness.Caller
	at     string        // where its metrics are
	ready  time.Duration // from its start to "the relay serves"
	output sync.WaitGroup
}

// start runs the relay on a data directory until it serves.
func (b *bench) start(data string, env ...string) *program {
	return b.startUnder(0, data, env...)
}

// startUnder is start with a limit of file descriptors; 0 leaves the one there is.
func (b *bench) startUnder(descriptors int, data string, env ...string) *program {
	args := []string{b.binary, "serve"}
	if descriptors > 0 {
		args = append([]string{"sh", "-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(descriptors)}, args...)
	}
	if b.profile != "" { // written when the relay stops
		args = append(args, "--cpuprofile", filepath.Join(b.profile, filepath.Base(data)+".pprof"))
	}
	//nolint:gosec // the binary that was built above
	p := &program{cmd: exec.CommandContext(b.ctx, args[0], args[1:]...)}
	p.cmd.Env = append(os.Environ(), append([]string{
		"RELAY_ADMIN_TOKEN=" + adminToken, "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0",
		"RELAY_DATA_DIR=" + data,
		"RELAY_AUDATEX_CLIENT_ID=sandbox-client", "RELAY_AUDATEX_CLIENT_SECRET=sandbox-secret",
		"RELAY_AUDATEX_RATE=10000000",
		"RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8", "RELAY_LOG_LEVEL=info",
	}, env...)...)
	stderr := get(p.cmd.StderrPipe())
	began := time.Now()
	must(p.cmd.Start())
	serves := make(chan bool, 1)
	p.output.Go(func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line struct{ Level, Msg, API, Metrics string }
			if json.Unmarshal(lines.Bytes(), &line) != nil || line.Level == "ERROR" {
				fmt.Fprintln(os.Stderr, "relay:", lines.Text())
			}
			if line.Msg == "the relay serves" {
				p.ready = time.Since(began)
				p.at = "http://" + line.Metrics + "/metrics"
				p.api = harness.Caller{Base: "http://" + line.API, Token: adminToken, Client: harness.NewClient()}
				serves <- true
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
		close(serves)
	})
	if !<-serves {
		must(errors.Join(errors.New("the relay did not come to serve"), p.cmd.Wait()))
	}
	return p
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

// call makes a request to the API as the administrator, which must succeed.
func (p *program) call(method, path string, body any) (harness.Answer, error) {
	a, err := p.api.Call(method, path, body)
	if err == nil && a.Status >= 300 {
		err = fmt.Errorf("%s %s: %d: %.4096s", method, path, a.Status, a.Body)
	}
	return a, err
}

func (p *program) put(path string, body any) error {
	_, err := p.call(http.MethodPut, path, body)
	return err
}

// fetch returns what an address has.
func fetch(url string) ([]byte, error) {
	a, err := harness.Caller{Base: url, Client: http.DefaultClient}.Call(http.MethodGet, "", nil)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("GET %s: %d", url, a.Status)
	}
	return a.Body, err
}

// read reads JSON from an address into v.
func read(url string, v any) error {
	body, err := fetch(url)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// callback registers one.
func (b *bench) callback(p *program, id, path, from string, concurrency int) {
	must(p.put("/v1/callbacks/"+id, map[string]any{
		"url": b.receiver.base + "/" + path, "startFrom": from, "concurrency": concurrency, "timeoutSeconds": 5,
	}))
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// usage returns the CPU seconds that the relay has used and the most memory it had, in MiB.
func (p *program) usage() (cpu, peak float64) { return cpuOf(p.pid()), memoryOf(p.pid(), "VmHWM") }

// cpuOf returns the CPU seconds that a process has used.
func cpuOf(pid int) float64 {
	stat := get(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc(5): utime and stime are 14 and 15
	return (get(strconv.ParseFloat(fields[11], 64)) + get(strconv.ParseFloat(fields[12], 64))) / ticks
}

// memoryOf returns a figure of the memory of a process, in MiB: VmRSS is what it has now, VmHWM the most it had.
func memoryOf(pid int, figure string) float64 {
	status := get(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))
	_, kib, found := strings.Cut(string(status), figure+":")
	if !found {
		must(errors.New("the kernel tells no memory of the relay"))
	}
	return get(strconv.ParseFloat(strings.Fields(kib)[0], 64)) / 1024
}
