package logging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// entries reads the lines of a log.
func entries(t *testing.T, b *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range bytes.Lines(b.Bytes()) {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, entry)
	}
	b.Reset()
	return all
}

// total returns how many lines there were of a subject, written and left out.
func total(all []map[string]any, key, value string) (written, events int) {
	for _, e := range all {
		if e[key] == value {
			left, _ := e[leftOut].(float64)
			written, events = written+1, events+1+int(left)
		}
	}
	return written, events
}

// TestAFloodIsSampled has one receiver flood the log beside others that are in moderate trouble.
func TestAFloodIsSampled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(&out, slog.LevelInfo, false)
		loud, quiet := log.With("callback", "loud"), log.With("callback", "quiet")
		for i := range 1000 {
			loud.Warn("a delivery has failed for good", "order", fmt.Sprint("order-", i))
			if i%100 == 0 {
				quiet.Warn("a delivery has failed for good", "order", fmt.Sprint("other-", i))
			}
		}
		loud.Error("the cursor cannot be used")
		loud.Info("the receiver answers again")
		time.Sleep(window + time.Second) //nolint:forbidigo // virtual time
		synctest.Wait()
		for i := range 100 {
			loud.Warn("a delivery has failed for good", "order", fmt.Sprint("later-", i))
		}
		log.Close()
		loud.Warn("a delivery has failed for good", "order", "last")
		all := entries(t, &out)
		if written, events := total(all, "callback", "loud"); written != linesOfOwner+2+1+1+1 ||
			events != 1000+2+100+1 {
			t.Errorf("of the loud one %d lines stand for %d", written, events)
		}
		if written, events := total(all, "callback", "quiet"); written != 10 || events != 10 {
			t.Errorf("of the quiet one %d lines stand for %d", written, events)
		}
	})
}

// TestAnOrderDoesNotUseUpItsOwnersLines has one order of a connection flood the log.
func TestAnOrderDoesNotUseUpItsOwnersLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(&out, slog.LevelInfo, false)
		for range 500 {
			log.Warn("order cannot be read yet", "connection", "leeds", "site", "leeds", "order", "bad")
		}
		for i := range 10 {
			log.Warn("order cannot be read yet", "connection", "leeds", "site", "leeds",
				"order", fmt.Sprint("good-", i))
		}
		time.Sleep(window + time.Second) //nolint:forbidigo // virtual time
		synctest.Wait()
		all := entries(t, &out)
		if written, events := total(all, "order", "bad"); written != linesOfOrder+1 || events != 500 {
			t.Errorf("of the order %d lines stand for %d", written, events)
		}
		for i := range 10 {
			if written, _ := total(all, "order", fmt.Sprint("good-", i)); written != 1 {
				t.Errorf("of order good-%d there are %d lines", i, written)
			}
		}
		time.Sleep(3 * window) //nolint:forbidigo // virtual time
		synctest.Wait()
		if len(log.table.lines) != 0 {
			t.Errorf("%d subjects are remembered though all is quiet", len(log.table.lines))
		}
	})
}

// TestManyOrdersThatFloodAreOneOwners has each of a connection's orders log more than it may.
func TestManyOrdersThatFloodAreOneOwners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(&out, slog.LevelInfo, false)
		for i := range 5000 {
			log.Warn("a notification is set aside", "connection", "leeds", "order", fmt.Sprint(i%1000))
		}
		time.Sleep(2*window + time.Second) //nolint:forbidigo // virtual time
		synctest.Wait()
		log.Close()
		if written, events := total(entries(t, &out), "connection", "leeds"); written > 3*linesOfOwner ||
			events != 5000 {
			t.Errorf("%d lines stand for %d", written, events)
		}
	})
}

// TestLinesOfNobodyPass has lines without a subject, and more subjects than are counted.
func TestLinesOfNobodyPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(&out, slog.LevelInfo, false)
		for range 100 {
			log.Error("the store does not take writes")
			log.With("client", "acme").Warn("http", "status", 503, "request_id", "r")
		}
		for i := range mostSubjects + 50 {
			log.Warn("polling fails", "connection", fmt.Sprint(i))
		}
		log.Close()
		if got := len(entries(t, &out)); got != 200+mostSubjects+50 {
			t.Errorf("%d lines", got)
		}
	})
}

func TestToggleDebug(t *testing.T) {
	t.Parallel()
	for _, configured := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelError} {
		var out bytes.Buffer
		log := New(&out, configured, true)
		debugs := func() bool {
			out.Reset()
			log.Debug("fine")
			return out.Len() > 0
		}
		before := debugs()
		for i := range 2 {
			out.Reset()
			log.ToggleDebug()
			if said := out.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "log_level=") {
				t.Errorf("%s, change %d: the log says %q", configured, i, said)
			}
			if got, want := debugs(), before == (i == 1); got != want {
				t.Errorf("%s, change %d: debug lines are written: %v", configured, i, got)
			}
		}
	}
}
