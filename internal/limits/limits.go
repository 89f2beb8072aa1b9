// Package limits divides the two scarce resources of the process, file descriptors and memory,
// once, at its start.
//
// The parts together never get more than there is: a process that runs out of descriptors loses its
// store, as JetStream ends a stream whose file it cannot open. Begin reading at Divide.
package limits

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
)

// Needs describes what the process must do.
type Needs struct {
	Embedded    bool // the store is in this process
	Subscribers bool // of NATS, at this process

	VendorRate    int           // calls to the vendor a minute
	VendorTimeout time.Duration // of one call
	Proxies       ingress.Proxies
}

// Shares are what the parts get.
type Shares struct {
	Descriptors int   // RLIMIT_NOFILE
	Memory      int64 // bytes that Go tries to stay within; 0: no limit

	Vendor       int // connections to the vendor
	Metrics, API ingress.Bounds
	Waiting      ingress.Bounds // requests that wait for an event, the vendor or a receiver
	Subscribers  int            // connections of NATS subscribers

	Attempts            int // attempts of deliveries under way
	ReceiverConnections int // connections to receivers, under way and idle

	RingBytes          int
	HeldBytes          int64
	SubscriberPending  int64 // bytes that wait for one NATS subscriber
	SubscribersPending int64 // bytes that wait for all of them
}

// Descriptors that are reserved before the rest is divided. Measured: an embedded relay that does
// nothing has 28 open, 13 of them the streams' newest files; the store opens further files for the
// time of a read or a write.
const (
	// standard streams, listeners, the poller of the network, the lock, files of the process's own state
	reservedProcess  = 24
	reservedEmbedded = 104
	reservedExternal = 24 // connections to the cluster, and what they are looked up with
	minVendor        = 16
	minMetrics       = 8
	minAPI           = 24
	minSubscribers   = 16
	minReceivers     = 36
)

// The most of each that is of use, even if the limits allow more, and the most memory that one of
// them takes.
const (
	maxVendor      = 512
	maxMetrics     = 64
	maxAPI         = 8192
	maxSubscribers = 8192
	maxAttempts    = 16_384
	maxIdle        = 4096

	attemptBytes    = 64 << 10 // stacks, buffers of the connection and of TLS
	connectionBytes = 64 << 10
	subscriberBytes = 256 << 10
)

// assumedMemory divides the memory where nothing limits it.
const assumedMemory = 4 << 30

// fewDescriptors is the number below which a start logs a warning: callbacks then have fewer
// attempts than the API lets one client ask for.
const fewDescriptors = 4096

// Divide reads the limits of the process, sets Go's limit of memory if it is not set, and divides
// them. It returns an error if there are too few descriptors.
func Divide(n Needs) (Shares, error) {
	descriptors, err := descriptorLimit()
	if err != nil {
		return Shares{}, err
	}
	return divide(n, descriptors, memoryLimit())
}

// divide divides descriptors and memory among the parts.
func divide(n Needs, descriptors int, memory int64) (Shares, error) {
	r := Shares{Descriptors: descriptors, Memory: memory}
	reserved := reservedProcess + reservedExternal
	if n.Embedded {
		reserved = reservedProcess + reservedEmbedded
	}
	least := reserved + minVendor + minMetrics + minAPI + minReceivers
	if n.Subscribers {
		least += minSubscribers
	}
	if descriptors < least {
		return r,
			fmt.Errorf("the limit of open files (RLIMIT_NOFILE) is %d, and the relay needs at least %d, better %d: "+
				"raise it with `ulimit -n`, "+
				"LimitNOFILE= of systemd, or the container's ulimits", descriptors, least, fewDescriptors)
	}
	bytes := cmp.Or(memory, assumedMemory)
	fits := func(most int, each int64, part int64) int { return int(min(int64(most), max(bytes/part/each, 16))) }

	// The vendor's allowance bounds how many calls can hang at once.
	calls := float64(n.VendorRate)*n.VendorTimeout.Minutes()*1.1 + minVendor
	r.Vendor = int(min(max(calls, minVendor), maxVendor, max(float64(descriptors)/8, minVendor)))
	rest := descriptors - reserved - r.Vendor
	r.Metrics = ingress.Bounds{Total: max(min(rest/16, maxMetrics), minMetrics)}
	rest -= r.Metrics.Total
	r.API = ingress.Bounds{Total: max(min(rest/4, fits(maxAPI, connectionBytes, 8)), minAPI)}
	if n.Subscribers {
		r.Subscribers = max(min(rest/6, fits(maxSubscribers, subscriberBytes, 8)), minSubscribers)
	}
	rest -= r.API.Total + r.Subscribers
	// An attempt that looks a name up or tries two addresses has two descriptors for a moment; an
	// idle connection has one.
	r.Attempts = min(rest*4/9, fits(maxAttempts, attemptBytes, 6))
	r.ReceiverConnections = min(rest-r.Attempts, r.Attempts+fits(maxIdle, attemptBytes, 12))

	r.Metrics.PerAddress, r.API.PerAddress = r.Metrics.Total/2, max(r.API.Total/4, minAPI/2)
	r.API.Exempt, r.Metrics.Exempt = n.Proxies, nil
	r.Waiting = ingress.Bounds{Total: r.API.Total * 3 / 4, PerAddress: r.API.PerAddress * 3 / 4, Exempt: n.Proxies}
	r.RingBytes = int(min(32<<20, bytes/16))
	r.HeldBytes = min(256<<20, bytes/12)
	r.SubscriberPending = max(min(256<<20, bytes/8), 64<<20)
	r.SubscribersPending = min(512<<20, bytes/12)
	return r, nil
}

// Few reports whether there are so few descriptors that receivers that hang slow down others.
func (r Shares) Few() bool { return r.Descriptors < fewDescriptors }

// Log logs what there is, and warns of a limit that is low.
func (r Shares) Log(log *slog.Logger) {
	log.Info("descriptors and memory are divided", "open_files_limit", r.Descriptors, "memory_limit_mib", r.Memory>>20,
		"api_connections", r.API.Total, "attempts", r.Attempts, "receiver_connections", r.ReceiverConnections,
		"subscriber_connections", r.Subscribers, "vendor_connections", r.Vendor)
	if r.Few() {
		log.Warn(
			"the limit of open files is low: receivers that hang leave others few attempts. Raise it with `ulimit "+
				"-n`, LimitNOFILE= of systemd, "+
				"or the container's ulimits", "open_files_limit", r.Descriptors, "attempts",
			r.Attempts, "wanted", fewDescriptors)
	}
}

// descriptorLimit returns how many descriptors the process may have. Go has raised the soft limit
// to the hard one.
func descriptorLimit() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(l.Cur, 1<<20)), nil
}

// memoryLimit returns the limit that Go keeps to: GOMEMLIMIT, or nine tenths of what the cgroup
// allows, which it sets. 0: none.
func memoryLimit() int64 {
	if set := debug.SetMemoryLimit(-1); set != math.MaxInt64 {
		return set
	}
	if os.Getenv("GOMEMLIMIT") != "" { // off
		return 0
	}
	limit := cgroupMemory(os.DirFS("/"))
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	return limit
}

// unlimited is what a cgroup's limit is above when there is none: version 1 writes the largest
// number of whole pages.
const unlimited = 1 << 60

// cgroupMemory returns nine tenths of the memory that the process's cgroup and those above it
// allow, 0 without a limit. The rest is for what Go does not count, such as the kernel's buffers of
// sockets.
func cgroupMemory(root fs.FS) int64 {
	lines, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	look := func(file string) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && n < unlimited && (least == 0 || n < least) {
			least = n
		}
	}
	for line := range strings.Lines(string(lines)) {
		hierarchy := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(hierarchy) != 3 {
			continue
		}
		var mount string
		var files []string
		switch {
		case hierarchy[0] == "0" && hierarchy[1] == "":
			mount, files = "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		case hierarchy[1] == "memory":
			mount, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		default:
			continue
		}
		for at := path.Clean("/" + hierarchy[2]); ; at = path.Dir(at) {
			for _, file := range files {
				look(path.Join(mount, at, file))
			}
			if at == "/" {
				break
			}
		}
	}
	return least / 10 * 9
}

const (
	// manyConnections have enough memory of their own that as much again for garbage would be a
	// waste: the more memory is live, the more garbage there may be.
	manyConnections = 2000
	// garbageOfMany is the garbage, in percent of live memory, at which it is then collected. Go's
	// own figure is 100.
	garbageOfMany = 40
	garbageEvery  = time.Second
	// settled is how long after the first sight of many connections the memory left from their
	// start is given back.
	settled = time.Minute
)

// BoundGarbage keeps the memory of a relay with many connections down until ctx ends, unless GOGC
// is set.
func BoundGarbage(ctx context.Context, connections func() int) error {
	if os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(garbageEvery)
	defer tick.Stop()
	var since time.Time // when the figure was changed; zero: what that has left is given back
	percent := debug.SetGCPercent(100)
	defer func() { debug.SetGCPercent(100) }()
	for {
		wanted := 100
		if connections() >= manyConnections {
			wanted = garbageOfMany
		}
		if wanted != percent {
			debug.SetGCPercent(wanted)
			percent, since = wanted, time.Now()
		}
		if !since.IsZero() && time.Since(since) > settled {
			debug.FreeOSMemory()
			since = time.Time{}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
