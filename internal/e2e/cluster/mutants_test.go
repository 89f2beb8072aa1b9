package cluster

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/topology"
	"github.com/audatex-relay/relay/relaytest"
)

// mutant is a relay that is broken on purpose: places of its source are replaced before it is
// built.
type mutant struct {
	name    string
	places  []place
	options options
	hurt    func(*world)
	finds   []string // kinds of findings of which the checks must come to at least one
}

// place is a piece of source that must stand exactly once in its file.
type place struct {
	file, from, to string
}

// mutants are the three kinds of faults that the checks must detect.
var mutants = []*mutant{
	{
		// What is being delivered is recorded as delivered before it is: it is lost with the
		// process.
		name: "cursor-before-delivery",
		places: []place{{
			file: "internal/dispatcher/sending.go",
			from: "\tj.set(b, cb)\n",
			to:   "\tj.set(b, cb)\n\tcb.cur.Succeed(b, c.now)\n\tc.markUnstored(cb)\n",
		}},
		options: options{replicas: 2, sites: 8},
		hurt: func(w *world) {
			w.kill(0)
			w.awaitFlow()
			w.kill(1)
		},
		finds: []string{notDelivered},
	},
	{
		// A replica has a refreshed token while it is cut off, and stores it over what its
		// successor has stored.
		name: "tokens-without-compare-and-set",
		places: []place{{
			file: "internal/store/tokens.go",
			from: "\trevision, err := t.Save(ctx, connection, rec, revision)",
			to:   "\t_, current, _ := t.Get(ctx, connection)\n\trevision, err := t.Save(ctx, connection, rec, current)",
		}},
		options: options{
			replicas: 2, sites: 16,
			vendor: sandbox.Config{AccessTokenLifetime: 3 * time.Second},
			faults: []sandbox.Faults{
				{ShareLatency: 1, Latency: 1500 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpToken}}},
		},
		hurt: func(w *world) {
			w.cut(0, topology.LeaseTTL+10*time.Second)
			pass(20 * time.Second) // by then the one that was cut off has tried again to store what it holds
		},
		finds: []string{overwritten, tokensMisused},
	},
	{
		// A replica goes on as if it held what it has lost.
		name: "lease-that-does-not-stop-its-owner",
		places: []place{
			{
				file: "internal/shard/lease.go",
				from: "\treturn !l.ended && now.Before(l.until) && now.Round(0).Before(l.wall)\n",
				to:   "\t_ = now\n\treturn true\n",
			},
			{
				file: "internal/shard/hold.go",
				from: "\th.lost = true\n\th.lease.end()\n\th.drain()\n",
				to:   "\tif h.due = time.Now().Add(m.conf.renew); !h.lost {\n\t\treturn\n\t}\n",
			},
		},
		options: options{replicas: 2, sites: 8},
		hurt:    func(w *world) { w.suspend(0, topology.LeaseTTL+7*time.Second) },
		finds:   []string{outsideLease},
	},
}

// TestMutants shows that the checks find what they must find. With RELAY_FAULT_ROUNDS each mutant
// gets the faults that it needs and must be detected. Without, the test only checks that the places
// are still in the source where mutants are made: a mutant that breaks nothing would prove nothing.
func TestMutants(t *testing.T) {
	n, _ := rounds(t)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			sources := m.sources(t)
			for file, source := range sources {
				if _, err := parser.ParseFile(token.NewFileSet(), file, source,
					parser.SkipObjectResolution); err != nil {
					t.Errorf("mutant %s: %v", m.name, err)
				}
			}
			if n > 0 && !t.Failed() {
				m.mustBeFound(t)
			}
		})
	}
}

// mustBeFound runs a mutant.
func (m *mutant) mustBeFound(t *testing.T) {
	o := m.options
	o.broken, o.vendor.Seed, o.probes = m, 5, 8
	w := newWorld(t, o)
	w.receiver("quick", relaytest.Healthy, nil)
	w.receiver("single", relaytest.Healthy, map[string]any{"concurrency": 1})
	w.receiver("late", relaytest.Slow(700*time.Millisecond), map[string]any{"concurrency": 32})
	w.receiver("later", relaytest.Slow(900*time.Millisecond), map[string]any{"concurrency": 32})
	w.newProbes()
	w.start()
	l, op := w.startLoad(5, 80*time.Millisecond), w.operator()
	w.awaitShares()
	w.awaitFlow()
	m.hurt(w)
	pass(5 * time.Second)
	l.end()
	var f findings
	w.look(&f, w.rest(&f, 20*time.Second)) // it may never come to rest: that is not how it must be found
	op.end()
	for _, line := range f.list {
		t.Logf("found: %.300s", line)
	}
	if !slices.ContainsFunc(m.finds, func(kind string) bool { return f.by[kind] > 0 }) {
		t.Errorf("mutant %s was not found out: none of %q", m.name, m.finds)
	}
}

// sources are the broken files' text, by their paths in the module.
func (m *mutant) sources(t testing.TB) map[string][]byte {
	t.Helper()
	return replaced(t, "mutant "+m.name, m.places)
}

// replaced returns files with places replaced, by their paths. It fails if a place is not there
// exactly once.
func replaced(t testing.TB, what string, places []place) map[string][]byte {
	t.Helper()
	sources := map[string][]byte{}
	for _, p := range places {
		source, ok := sources[p.file]
		if !ok {
			var err error
			if source, err = os.ReadFile(filepath.Join(root, p.file)); err != nil {
				t.Fatal(err)
			}
		}
		if n := bytes.Count(source, []byte(p.from)); n != 1 {
			t.Fatalf("%s: %s has %d times, not once:\n%s", what, p.file, n, p.from)
		}
		sources[p.file] = bytes.Replace(source, []byte(p.from), []byte(p.to), 1)
	}
	return sources
}
