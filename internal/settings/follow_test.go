package settings

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/access"
)

// The files of tokens are read again; what cannot be used changes nothing and is logged once.
func TestAdministratorsFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	const adminToken = "an-admin-token-for-tests"
	file := filepath.Join(t.TempDir(), "admin-tokens")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ops:a-token-of-ops-people\nnight:a-token-of-the-night\n")
	read := Serving{AdminToken: adminToken, AdminTokensFile: file}.ReadAdmins
	first, err := read()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	admins, failed, logger := access.NewAdmins(first), "", slog.New(slog.NewTextHandler(&log, nil))
	again := func() {
		failed = readAgain(logger, "the administrators' tokens", failed, read, func(read []access.Admin) {
			admins.Renew(read, logger)
		})
	}
	known := func(token, want string) {
		t.Helper()
		if name, _ := admins.Lookup(token); name != want {
			t.Errorf("%s is %q's, want %q", token, name, want)
		}
	}
	known(adminToken, "admin")
	known("a-token-of-ops-people", "ops")
	again()
	if log.Len() > 0 {
		t.Errorf("nothing has changed: %s", log.String())
	}
	write("ops:a-token-of-ops-people\nops-2:the-next-token-of-ops")
	again()
	known("the-next-token-of-ops", "ops-2")
	known("a-token-of-ops-people", "ops")
	known("a-token-of-the-night", "")
	for _, unusable := range []string{"a-token-without-a-name", "a-token-without-a-name", "", "ops:short"} {
		write(unusable)
		again()
		known("the-next-token-of-ops", "ops-2")
		known(adminToken, "admin")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	again()
	known("the-next-token-of-ops", "ops-2")
	if n := strings.Count(log.String(), "level=ERROR"); n != 4 {
		t.Errorf("%d errors were told, want one for each: %s", n, log.String())
	}
	if !strings.Contains(log.String(), "added=[ops-2] removed=[night]") || strings.Contains(log.String(), "token-of") ||
		strings.Contains(log.String(), "token-without") {
		t.Errorf("log: %s", log.String())
	}
}

// A file is read again at once when that is asked for, by everybody who follows one.
func TestRereads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rereads Rereads
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		var reads [2]atomic.Int32
		for i := range reads {
			following.Go(func() {
				Follow(ctx, slog.New(slog.DiscardHandler), &rereads, "a file", func() (int, error) { return 0, nil },
					func(int) { reads[i].Add(1) })
			})
		}
		synctest.Wait()
		rereads.Now()
		synctest.Wait()
		read := func(times int32) {
			t.Helper()
			for i := range reads {
				if n := reads[i].Load(); n != times {
					t.Errorf("file %d was read %d times, want %d", i, n, times)
				}
			}
		}
		read(1)
		time.Sleep(followEvery) //nolint:forbidigo // virtual time
		synctest.Wait()
		read(2)
		cancel()
		following.Wait()
	})
}
