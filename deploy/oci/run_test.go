package main

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// container runs the image's entry point by its configuration. As root it does so in a root directory of the unpacked
// image, as the image's user; else the unpacked files are used where they lie, and what would be found at fixed places
// is named instead.
type container struct {
	root   string
	config v1.Config
	chroot bool
}

func newContainer(t *testing.T) container {
	t.Helper()
	image := imageFor(t, index(t), "linux/"+runtime.GOARCH)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir(): the directories above it are root's alone, and the image's user has to get to its root.
	c := container{root: t.TempDir(), config: config.Config, chroot: os.Geteuid() == 0}
	unpack(t, image, c.root)
	if c.chroot {
		t.Log("as root: in a root directory of its own, as the image's user")
	} else {
		t.Log("not as root: the unpacked files are used where they lie")
	}
	return c
}

func (c container) command(ctx context.Context, args []string, env ...string) *exec.Cmd {
	if args == nil {
		args = c.config.Cmd
	}
	args = append(append([]string{}, c.config.Entrypoint[1:]...), args...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.root, c.config.Entrypoint[0]), args...)
	cmd.Env = append(append([]string{}, c.config.Env...), env...)
	if c.chroot {
		cmd.Path = c.config.Entrypoint[0]
		cmd.Dir = c.config.WorkingDir
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root, Credential: &syscall.Credential{Uid: user, Gid: user}}
	} else {
		cmd.Dir = c.root
		cmd.Env = append(cmd.Env, "RELAY_DATA_DIR="+filepath.Join(c.root, dataPath),
			"SSL_CERT_FILE="+filepath.Join(c.root, rootsPath))
	}
	return cmd
}

func TestContainerTellsItsVersion(t *testing.T) {
	t.Parallel()
	out, err := newContainer(t).command(t.Context(), []string{"--version"}).Output()
	if err != nil || strings.TrimSpace(string(out)) != testVersion {
		t.Errorf("--version: %q, %v", out, err)
	}
}

func TestContainerRefusesWrongSettings(t *testing.T) {
	t.Parallel()
	out, err := newContainer(t).command(t.Context(), nil).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "RELAY_ADMIN_TOKEN") {
		t.Errorf("without a setting it ends with %v: %s", err, out)
	}
}

// The image is enough to run the relay: its store goes to the data directory, zones and authorities are found, and
// SIGTERM ends it well.
func TestContainerServes(t *testing.T) {
	t.Parallel()
	c := newContainer(t)

	// A vendor whose certificate is vouched for by an authority that only the image's bundle names.
	asked := make(chan string, 100)
	vendor := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path + " " + r.UserAgent()
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
	}))
	defer vendor.Close()
	bundle, err := os.OpenFile(filepath.Join(c.root, rootsPath), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := pem.Encode(bundle, &pem.Block{Type: "CERTIFICATE", Bytes: vendor.Certificate().Raw}); err != nil {
		t.Fatal(err)
	}
	if err := bundle.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := c.command(ctx, nil, "RELAY_ADMIN_TOKEN=administrator-of-the-test", "RELAY_AUDATEX_CLIENT_ID=test",
		"RELAY_AUDATEX_CLIENT_SECRET=test",
		"RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0", "RELAY_AUDATEX_TIMEZONE=Europe/London",
		"RELAY_POLL_INTERVAL=500ms", "RELAY_LOG_LEVEL=debug", "RELAY_AUDATEX_TOKEN_URL="+vendor.URL+"/token",
		"RELAY_AUDATEX_BASE_URL="+vendor.URL)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	api := make(chan string, 1)
	var log strings.Builder
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			var line struct{ Msg, API string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "the relay serves" {
				api <- "http://" + line.API
			}
		}
	}()
	var base string
	select {
	case base = <-api:
	case <-logged:
		_ = cmd.Wait()
		t.Fatalf("it does not serve:\n%s", log.String())
	}

	call := func(method, path, body string) (int, string) {
		request, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer administrator-of-the-test")
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	if status, body := call("GET", "/readyz", ""); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, body := call("PUT", "/v1/connections/leeds",
		`{"level":"site","site":"leeds","refreshToken":"r"}`); status != 201 {
		t.Fatalf("PUT connection: %d %s", status, body)
	}
	// A poll needs a token: this came through TLS.
	select {
	case got := <-asked:
		if got != "/token audatex-relay/"+testVersion {
			t.Errorf("the vendor was asked %q", got)
		}
	case <-ctx.Done():
		t.Error("the vendor was not asked")
	}
	if entries, err := os.ReadDir(filepath.Join(c.root, dataPath)); err != nil || len(entries) == 0 {
		t.Errorf("nothing in the data directory: %v", err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-logged
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, log.String())
	}
}
