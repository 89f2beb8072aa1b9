package limits

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"
)

// At every limit, the parts together never have more than there is, and each has enough to work.
func TestDescriptorsAreNeverPromisedTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := Needs{
			Embedded: true, VendorRate: rapid.IntRange(1, 100_000).Draw(t, "rate"),
			VendorTimeout: time.Duration(rapid.Int64Range(int64(100*time.Millisecond),
				int64(5*time.Minute)).Draw(t, "timeout")),
		}
		reserved := reservedProcess + reservedEmbedded
		if rapid.Bool().Draw(t, "external") {
			n.Embedded, reserved = false, reservedProcess+reservedExternal
		} else if rapid.Bool().Draw(t, "subscribers") {
			n.Subscribers = true
		}
		limit := rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(2000, 1<<20)).Draw(t, "limit")
		memory := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(64<<20, 64<<30)).Draw(t, "memory")
		r, err := divide(n, limit, memory)
		if err != nil {
			if limit >= 300 || !strings.Contains(err.Error(), "ulimit") {
				t.Fatalf("%d descriptors are refused: %v", limit, err)
			}
			return
		}
		if sum := reserved + r.Vendor + r.Metrics.Total + r.API.Total + r.Subscribers +
			r.ReceiverConnections + r.Attempts; sum > limit {
			t.Fatalf("%d of %d descriptors are promised: %+v", sum, limit, r)
		}
		for what, left := range map[string]int{
			"vendor": r.Vendor - minVendor, "metrics": r.Metrics.Total - minMetrics, "api": r.API.Total - minAPI,
			"attempts": r.Attempts - 8, "idle": r.ReceiverConnections - r.Attempts,
			"an address": r.API.PerAddress - minAPI/2, "metrics of an address": r.Metrics.PerAddress - minMetrics/2,
		} {
			if left < 0 {
				t.Fatalf("too few for %s: %+v", what, r)
			}
		}
		if n.Subscribers != (r.Subscribers >= minSubscribers) {
			t.Fatalf("subscribers: %+v", r)
		}
		if memory > 0 {
			used := int64(r.ReceiverConnections)*attemptBytes + int64(r.API.Total)*connectionBytes +
				3*r.HeldBytes + int64(r.RingBytes)
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
		"version 2, no limit": {
			fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("max\n")}, 0},
		"version 2, above": {fstest.MapFS{
			"proc/self/cgroup":                                     file("0::/system.slice/relay.service\n"),
			"sys/fs/cgroup/system.slice/memory.max":                file("268435456\n"),
			"sys/fs/cgroup/system.slice/memory.high":               file("max\n"),
			"sys/fs/cgroup/system.slice/relay.service/memory.max":  file("max\n"),
			"sys/fs/cgroup/system.slice/relay.service/memory.high": file("1073741824\n"),
		}, 256 * mib / 10 * 9},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup":                           file("5:cpu:/a\n4:memory:/docker/abc\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("536870912\n"),
		}, 512 * mib / 10 * 9},
		"version 1, no limit": {fstest.MapFS{
			"proc/self/cgroup":                           file("4:memory:/\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 0},
		"odd": {fstest.MapFS{
			"proc/self/cgroup": file("0::/../../..\n\n::\nx\n"), "sys/fs/cgroup/memory.max": file("-5\n"),
			"sys/fs/cgroup/memory.high": file("many\n"),
		}, 0},
	} {
		if got := cgroupMemory(c.files); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
