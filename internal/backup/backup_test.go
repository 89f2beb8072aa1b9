package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestEverythingComesBackAsItWas(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	from, dir, m := saved(t, keys)
	var names []string
	for _, s := range m.Streams {
		names = append(names, s.Name)
	}
	const logs = 4 // notifications, events, attempts, audit
	if len(names) != logs+len(topology.Buckets) || names[len(names)-1] != "KV_relay_owners" ||
		names[0] != "KV_relay_cursors" {
		t.Errorf("taken: %v", names)
	}
	if m.Sequence < 1<<50 || m.Formats != topology.Formats || len(m.Consents) != 1 ||
		m.Consents[0].RefreshedAt.Hour() != 9 {
		t.Errorf("%+v", m)
	}
	private(t, dir)

	to := at(t, natstest.Start(t), keys, table)
	if _, err := backup.Restore(t.Context(), to.config, dir, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Streams {
		was, is := contents(t, from.js, s.Name), contents(t, to.js, s.Name)
		if s.Name == "KV_relay_owners" { // the mark records that it was restored
			if len(is) != len(was) {
				t.Errorf("%s: %v is not %v", s.Name, is, was)
			}
			continue
		}
		if !same(was, is) || len(was) == 0 && s.Messages > 0 {
			t.Errorf("%s: %v is not %v", s.Name, is, was)
		}
	}
	s := to.open(t)
	if cb, _, err := s.Callbacks.Get(t.Context(), "bms"); err != nil ||
		cb.Secrets.URL != "https://bms.example/hooks?token=a-token-in-a-url" {
		t.Errorf("%+v, %v", cb, err)
	}
	if token, _, err := s.Tokens.Token(t.Context(), "leeds"); err != nil || token.RefreshToken.Reveal() != "refresh" {
		t.Error(err)
	}
	mark, err := table.ReadMark(t.Context(), to.js)
	if err != nil || !mark.Restoring.IsZero() || mark.Restored.IsZero() || mark.Ahead < time.Hour.Microseconds() {
		t.Errorf("%+v, %v", mark, err)
	}
}

// private checks that nobody else can read a backup, and that no key is in it.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode != 0o600 && !d.IsDir() || d.IsDir() && mode != 0o700 {
			t.Errorf("%s is %o", path, mode)
		}
		if d.IsDir() {
			if path != dir {
				t.Errorf("%s was left behind", path)
			}
			return nil
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("primaryKeyId")) {
			t.Errorf("%s holds a keyset", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatDoesNotFitIsNotRestored(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, dir, m := saved(t, keys)
	for _, c := range []struct {
		name, says string
		is         error
		spoil      func(t *testing.T, to *world, dir string)
	}{
		{"another key", "needs the keys with fingerprint " + m.Keys, backup.ErrKeys,
			func(t *testing.T, to *world, _ string) {
				*to = *at(t, to.nc, newKeys(t), table)
			}},
		{"another prefix", `of prefix "relay", not "other"`, nil, func(_ *testing.T, to *world, _ string) {
			to.config.Topology.Prefix = "other"
		}},
		{"a damaged file", "relay_events.snapshot of the backup is damaged", nil,
			func(t *testing.T, _ *world, dir string) {
				file := filepath.Join(dir, "relay_events.snapshot")
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				raw[len(raw)/2] ^= 1
				if err := os.WriteFile(file, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}},
		{"a missing file", "relay_inbox.snapshot", fs.ErrNotExist, func(t *testing.T, _ *world, dir string) {
			if err := os.Remove(filepath.Join(dir, "relay_inbox.snapshot")); err != nil {
				t.Fatal(err)
			}
		}},
		{"no manifest", "holds no complete backup", nil, func(t *testing.T, _ *world, dir string) {
			if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a newer release's", "formats version 9, this program knows up to version 1", topology.ErrNewer,
			func(t *testing.T, to *world, dir string) {
				edit(t, to, dir, func(m *backup.Manifest) { m.Formats = 9 })
			}},
		{"an altered manifest", "they do not belong together", nil, func(t *testing.T, _ *world, dir string) {
			file := filepath.Join(dir, "manifest.json")
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, bytes.Replace(raw, []byte(`"sequence": `), []byte(`"sequence": 9`), 1),
				0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"no proof of the keys", "manifest.proof", fs.ErrNotExist, func(t *testing.T, _ *world, dir string) {
			if err := os.Remove(filepath.Join(dir, "manifest.proof")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a stream less", "holds no relay_attempts", nil, func(t *testing.T, to *world, dir string) {
			edit(t, to, dir, func(m *backup.Manifest) {
				m.Streams = slices.DeleteFunc(m.Streams, func(s backup.Stream) bool {
					return s.Name == "relay_attempts"
				})
			})
		}},
		{"numbers of no clock", "ahead of the clock, which cannot be", topology.ErrRefused,
			func(t *testing.T, to *world, dir string) {
				edit(t, to, dir, func(m *backup.Manifest) { m.Sequence = 9795732089757821 })
			}},
		{"a file elsewhere", "outside its directory", nil, func(t *testing.T, to *world, dir string) {
			edit(t, to, dir, func(m *backup.Manifest) {
				m.Streams[3].Snapshot.Name = "../" + m.Streams[3].Snapshot.Name
			})
		}},
		{"a clock behind it", "is before the backup was made", nil, func(_ *testing.T, to *world, _ string) {
			to.config.Now = func() time.Time { return m.Ended.Add(-time.Second) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spoiled := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(spoiled, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			to := at(t, natstest.Start(t), keys, table)
			c.spoil(t, to, spoiled)
			_, err := backup.Restore(t.Context(), to.config, spoiled, true)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("refused with %v", err)
			}
			if all := names(t, to.js); len(all) > 0 {
				t.Errorf("restored %v all the same", all)
			}
		})
	}
}

// edit changes a manifest as only the owner of the keys can.
func edit(t *testing.T, w *world, dir string, change func(*backup.Manifest)) {
	t.Helper()
	m, err := backup.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	change(&m)
	for _, name := range []string{"manifest.json", "manifest.proof"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Write(dir, w.config.Sealer); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsOverwrittenUnasked(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	from, dir, _ := saved(t, keys)
	if _, err := backup.Save(t.Context(), from.config, dir); err == nil ||
		!strings.Contains(err.Error(), "is there already") {
		t.Errorf("a backup was written over another: %v", err)
	}

	to := at(t, natstest.Start(t), keys, table)
	to.fill(t)
	if _, err := to.s.Inbox.Append(t.Context(), relay1Page("p2")); err != nil {
		t.Fatal(err)
	}
	before := contents(t, to.js, "relay_inbox")
	if _, err := backup.Restore(t.Context(), to.config, dir, false); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("restored over what was there: %v", err)
	}
	if _, err := to.js.Publish(t.Context(), "$KV.relay_owners.member.a-1", []byte(`{"version":2}`)); err != nil {
		t.Fatal(err)
	}
	signs, err := to.nc.SubscribeSync("$JS.API.STREAM.CREATE." + table.RestoreSign())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, true); err == nil ||
		!strings.Contains(err.Error(), "relays run on this store (member.a-1)") {
		t.Errorf("restored under a running relay: %v", err)
	}
	if n, _, err := signs.Pending(); n > 0 || err != nil {
		t.Errorf("a running relay was shown the sign of a restore, by which it ends: %d, %v", n, err)
	}
	if !same(before, contents(t, to.js, "relay_inbox")) {
		t.Error("a refusal changed the store")
	}
	kv, err := to.js.KeyValue(t.Context(), "relay_owners")
	if err == nil {
		err = kv.Delete(t.Context(), "member.a-1")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, true); err != nil {
		t.Fatal(err)
	}
	if !same(contents(t, from.js, "relay_inbox"), contents(t, to.js, "relay_inbox")) {
		t.Error("not what the backup held")
	}
}

// A restore that was killed has left its sign, and an unknown part of a store. No relay starts on
// it, and the next restore continues with --replace only.
func TestAKilledRestoreIsGoneOnWith(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	from, dir, _ := saved(t, keys)
	to := at(t, natstest.Start(t), keys, table)
	dead, err := to.config.Topology.BeginRestore(t.Context(), to.js, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{Conn: to.nc, Topology: table, Sealer: to.config.Sealer,
		Log: to.config.Log}); !errors.Is(err, topology.ErrRestoring) {
		t.Errorf("a relay on an empty store that is being restored: %v", err)
	}
	if err := dead.Change(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, false); !errors.Is(err, topology.ErrRestoring) {
		t.Errorf("beside another: %v", err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, true); err != nil {
		t.Fatal(err)
	}
	if err := dead.Ours(t.Context()); !errors.Is(err, topology.ErrTakenOver) {
		t.Errorf("the first is told %v", err)
	}
	// It was only suspended, and wakes up in the midst of deleting.
	if err := backup.DeleteAll(t.Context(), to.js, dead,
		[]string{"relay_inbox", "KV_relay_owners"}); !errors.Is(err, topology.ErrTakenOver) {
		t.Errorf("the first deletes on: %v", err)
	}
	to.open(t)
	if !same(contents(t, from.js, "relay_inbox"), contents(t, to.js, "relay_inbox")) {
		t.Error("not what the backup held")
	}
}

// Two restores run at once. If one reports success, everything is there; otherwise a third one can
// continue.
func TestTwoRestoresAtOnce(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, dir, m := saved(t, keys)
	nc := natstest.Start(t)
	var both sync.WaitGroup
	var ended [2]error
	for i := range ended {
		to := at(t, nc, keys, table)
		both.Go(func() { _, ended[i] = backup.Restore(t.Context(), to.config, dir, true) })
	}
	both.Wait()
	to := at(t, nc, keys, table)
	if ended[0] != nil && ended[1] != nil {
		t.Logf("%v; %v", ended[0], ended[1])
		if _, err := backup.Restore(t.Context(), to.config, dir, true); err != nil {
			t.Fatal(err)
		}
	}
	if all := names(t, to.js); len(all) != len(m.Streams) {
		t.Errorf("there are %v after %v and %v", all, ended[0], ended[1])
	}
	to.open(t)
}

func TestAFreshlyMadeStoreCountsAsEmpty(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, dir, _ := saved(t, keys)
	to := at(t, natstest.Start(t), keys, table)
	to.open(t)
	if _, err := backup.Restore(t.Context(), to.config, dir, false); err != nil {
		t.Fatal(err)
	}
}

// A restore that fails half-way leaves nothing that a relay could start on.
func TestAFailedRestoreLeavesNothing(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, dir, _ := saved(t, keys)
	to := at(t, natstest.Start(t), keys, table)
	theirs := jetstream.StreamConfig{Name: "theirs", Subjects: []string{"relay.inbox.>"}}
	asked := 0
	to.config.Now = func() time.Time {
		if asked++; asked == 2 { // the first stream is there: what was free when the restore looked is taken now
			if _, err := to.js.CreateStream(t.Context(), theirs); err != nil {
				t.Error(err)
			}
		}
		return time.Now()
	}
	_, err := backup.Restore(t.Context(), to.config, dir, false)
	if err == nil || !strings.Contains(err.Error(), "what was restored has been removed again") {
		t.Errorf("%v", err)
	}
	if all := names(t, to.js); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
	// Now it is seen before anything is made or deleted.
	if _, err := backup.Restore(t.Context(), to.config, dir, true); !errors.Is(err, topology.ErrForeign) ||
		!strings.Contains(err.Error(), "stream theirs") {
		t.Errorf("%v", err)
	}
	if all := names(t, to.js); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
}

// Streams that another restore has put there, after taking over from this one, are not left to
// relays as if they were a store.
func TestAFailedRestoreKeepsItsSignWhereAnotherHasMadeStreams(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	from, dir, _ := saved(t, keys)
	another, err := from.js.Stream(t.Context(), table.Attempts())
	if err != nil {
		t.Fatal(err)
	}
	to := at(t, natstest.Start(t), keys, table)
	asked := 0
	to.config.Now = func() time.Time {
		if asked++; asked == 2 { // the first stream is there, those of the logs are not
			for _, s := range []jetstream.StreamConfig{{Name: "theirs", Subjects: []string{"relay.inbox.>"}},
				another.CachedInfo().Config} {
				if _, err := to.js.CreateStream(t.Context(), s); err != nil {
					t.Error(err)
				}
			}
		}
		return time.Now()
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, false); err == nil ||
		!strings.Contains(err.Error(), "no relay starts on it") {
		t.Errorf("%v", err)
	}
	if err := to.js.DeleteStream(t.Context(), "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), to.js); !errors.Is(err, topology.ErrRestoring) {
		t.Errorf("a relay on what another restore has made: %v", err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, true); err != nil {
		t.Fatal(err)
	}
	to.open(t)
}

func TestAnInterruptedBackupLooksLikeNone(t *testing.T) {
	t.Parallel()
	from := at(t, natstest.Start(t), newKeys(t), table)
	from.fill(t)
	parent := t.TempDir()
	for n := range 12 { // cut off at ever later moments
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*15*time.Millisecond)
		dir := filepath.Join(parent, fmt.Sprint(n))
		_, err := backup.Save(ctx, from.config, dir)
		cancel()
		_, missing := os.Stat(dir)
		if (err == nil) != (missing == nil) {
			t.Errorf("ended with %v, and the directory: %v", err, missing)
		}
		if err == nil {
			if _, err := backup.ReadManifest(dir); err != nil {
				t.Error(err)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(parent, "*.partial-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestABackupWithWrongKeysIsNotMade(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	at(t, nc, newKeys(t), table).fill(t)
	_, err := backup.Save(t.Context(), at(t, nc, newKeys(t), table).config, filepath.Join(t.TempDir(), "backup"))
	if !errors.Is(err, backup.ErrKeys) {
		t.Error(err)
	}
}

// A snapshot that a lost link has cut off is noticed, regardless of how the server ended it.
func TestACutSnapshotIsNoticed(t *testing.T) {
	t.Parallel()
	from := at(t, natstest.Start(t), newKeys(t), table)
	from.fill(t)
	dir := filepath.Join(t.TempDir(), "backup")
	save(t, from, dir)
	file := filepath.Join(dir, "relay_events.snapshot")
	if err := backup.Whole(file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(raw)-12; n++ { // what follows is the compression's own end
		if err := os.WriteFile(file, raw[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if backup.Whole(file) == nil {
			t.Fatalf("%d of %d bytes pass for a whole one", n, len(raw))
		}
	}
}
