package main

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"
)

// Whatever the limits are, the parts together never have more than there is, and each has enough to work.
func TestDescriptorsAreNeverPromisedTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := config{}
		c.AudatexRate, c.AudatexTimeout = rapid.IntRange(1, 100_000).Draw(t, "rate"), duration(rapid.Int64Range(int64(100*time.Millisecond), int64(5*time.Minute)).Draw(t, "timeout"))
		reserved := reservedProcess + reservedEmbedded
		if rapid.Bool().Draw(t, "external") {
			c.NATSURL, reserved = "nats://example.com", reservedProcess+reservedExternal
		} else if rapid.Bool().Draw(t, "subscribers") {
			c.NATSListen = ":4222"
		}
		limit := rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(2000, 1<<20)).Draw(t, "limit")
		memory := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(64<<20, 64<<30)).Draw(t, "memory")
		r, err := divide(c, limit, memory)
		if err != nil {
			if limit >= 300 || !strings.Contains(err.Error(), "ulimit") {
				t.Fatalf("%d descriptors are refused: %v", limit, err)
			}
			return
		}
		if sum := reserved + r.vendor + r.metrics.Total + r.api.Total + r.subscribers + r.receiverConnections + r.attempts; sum > limit {
			t.Fatalf("%d of %d descriptors are promised: %+v", sum, limit, r)
		}
		for what, n := range map[string]int{
			"vendor": r.vendor - minVendor, "metrics": r.metrics.Total - minMetrics, "api": r.api.Total - minAPI, "attempts": r.attempts - 8,
			"idle": r.receiverConnections - r.attempts, "an address": r.api.PerAddress - minAPI/2, "metrics of an address": r.metrics.PerAddress - minMetrics/2,
		} {
			if n < 0 {
				t.Fatalf("too few for %s: %+v", what, r)
			}
		}
		if (c.NATSListen != "") != (r.subscribers >= minSubscribers) {
			t.Fatalf("subscribers: %+v", r)
		}
		if memory > 0 {
			used := int64(r.receiverConnections)*attemptBytes + int64(r.api.Total)*connectionBytes + 3*r.heldBytes + int64(r.ringBytes)
			if memory >= 128<<20 && used > memory*3/4 {
				t.Fatalf("%d of %d bytes are promised: %+v", used, memory, r)
			}
		}
	})
}

func TestMemoryOfTheCgroup(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
	}{
		"nothing": {fstest.MapFS{}, 0},
		"version 2": {fstest.MapFS{
			"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("536870912\n"),
		}, 512 * mib / 10 * 9},
		"version 2, no limit": {fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("max\n")}, 0},
		"version 2, above": {fstest.MapFS{
			"proc/self/cgroup":                                     file("0::/system.slice/relay.service\n"),
			"sys/fs/cgroup/system.slice/memory.max":                file("268435456\n"),
			"sys/fs/cgroup/system.slice/memory.high":               file("max\n"),
			"sys/fs/cgroup/system.slice/relay.service/memory.max":  file("max\n"),
			"sys/fs/cgroup/system.slice/relay.service/memory.high": file("1073741824\n"),
		}, 256 * mib / 10 * 9},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup": file("5:cpu:/a\n4:memory:/docker/abc\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("536870912\n"),
		}, 512 * mib / 10 * 9},
		"version 1, no limit": {fstest.MapFS{
			"proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 0},
		"odd": {fstest.MapFS{
			"proc/self/cgroup": file("0::/../../..\n\n::\nx\n"), "sys/fs/cgroup/memory.max": file("-5\n"), "sys/fs/cgroup/memory.high": file("many\n"),
		}, 0},
	} {
		if got := cgroupMemory(c.files); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestConnectionsToTheVendorAreBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := newBoundedDialer(2)
	var open []io.Closer
	for range 2 {
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, errManyCalls) {
		t.Errorf("a third connection: %v", err)
	}
	_, _ = open[0].Close(), open[0].Close()
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, errManyCalls) {
		t.Errorf("a connection closed twice makes room for two: %v", err)
	}
	_, _ = c.Close(), open[1].Close()
}
