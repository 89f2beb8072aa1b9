package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/audatex-relay/relay/internal/ingress"
)

// What each part of the process may have of its two scarce resources, file descriptors and memory, is decided once, at the
// start. A process that runs out of descriptors loses its store: JetStream ends a stream whose file it cannot open.

// Descriptors that are reserved before the rest is divided. Measured: an embedded relay that does nothing has 28 open, 13 of
// them the streams' newest files; the store opens further files for the time of a read or a write.
const (
	reservedProcess  = 24 // standard streams, listeners, the poller of the network, the lock, files of the process's own state
	reservedEmbedded = 104
	reservedExternal = 24 // connections to the cluster, and what they are looked up with
	minVendor        = 16
	minMetrics       = 8
	minAPI           = 24
	minSubscribers   = 16
	minReceivers     = 36
)

// The most of each that is of use, whatever the limits allow, and what one of them takes of the memory at most.
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

// fewDescriptors is below what a start warns: callbacks then have fewer attempts than the API lets one client ask for.
const fewDescriptors = 4096

// resources are what the parts get.
type resources struct {
	descriptors int   // RLIMIT_NOFILE
	memory      int64 // bytes that Go tries to stay within; 0: no limit

	vendor              int // connections to the vendor
	metrics, api        ingress.Bounds
	waiting             ingress.Bounds // requests that wait for an event, the vendor or a receiver
	subscribers         int            // connections of NATS subscribers
	attempts            int            // attempts of deliveries under way
	receiverConnections int            // connections to receivers, under way and idle
	ringBytes           int
	heldBytes           int64
	subscriberPending   int64 // bytes that wait for one NATS subscriber
	subscribersPending  int64 // bytes that wait for all of them
}

// divide divides descriptors and memory among the parts.
func divide(c config, descriptors int, memory int64) (resources, error) {
	r := resources{descriptors: descriptors, memory: memory}
	reserved := reservedProcess + reservedExternal
	if c.NATSURL == "" {
		reserved = reservedProcess + reservedEmbedded
	}
	least := reserved + minVendor + minMetrics + minAPI + minReceivers
	if c.NATSListen != "" {
		least += minSubscribers
	}
	if descriptors < least {
		return r, fmt.Errorf("the limit of open files (RLIMIT_NOFILE) is %d, and the relay needs at least %d, better %d: raise it with `ulimit -n`, "+
			"LimitNOFILE= of systemd, or the container's ulimits", descriptors, least, fewDescriptors)
	}
	bytes := cmp.Or(memory, assumedMemory)
	fits := func(most int, each int64, part int64) int { return int(min(int64(most), max(bytes/part/each, 16))) }

	// The vendor's allowance bounds how many calls can hang at once.
	calls := float64(c.AudatexRate)*c.AudatexTimeout.d().Minutes()*1.1 + minVendor
	r.vendor = int(min(max(calls, minVendor), maxVendor, max(float64(descriptors)/8, minVendor)))
	rest := descriptors - reserved - r.vendor
	r.metrics = ingress.Bounds{Total: max(min(rest/16, maxMetrics), minMetrics)}
	rest -= r.metrics.Total
	r.api = ingress.Bounds{Total: max(min(rest/4, fits(maxAPI, connectionBytes, 8)), minAPI)}
	if c.NATSListen != "" {
		r.subscribers = max(min(rest/6, fits(maxSubscribers, subscriberBytes, 8)), minSubscribers)
	}
	rest -= r.api.Total + r.subscribers
	// An attempt that looks a name up or tries two addresses has two descriptors for a moment; an idle connection has one.
	r.attempts = min(rest*4/9, fits(maxAttempts, attemptBytes, 6))
	r.receiverConnections = min(rest-r.attempts, r.attempts+fits(maxIdle, attemptBytes, 12))

	r.metrics.PerAddress, r.api.PerAddress = r.metrics.Total/2, max(r.api.Total/4, minAPI/2)
	r.api.Exempt, r.metrics.Exempt = c.proxies, nil
	r.waiting = ingress.Bounds{Total: r.api.Total * 3 / 4, PerAddress: r.api.PerAddress * 3 / 4, Exempt: c.proxies}
	r.ringBytes = int(min(32<<20, bytes/16))
	r.heldBytes = min(256<<20, bytes/12)
	r.subscriberPending = max(min(256<<20, bytes/8), 64<<20)
	r.subscribersPending = min(512<<20, bytes/12)
	return r, nil
}

// newResources reads the limits of the process, sets Go's limit of memory if nobody has, and divides them.
func newResources(c config) (resources, error) {
	descriptors, err := descriptorLimit()
	if err != nil {
		return resources{}, err
	}
	r, err := divide(c, descriptors, memoryLimit())
	if err != nil {
		return r, wrong("RLIMIT_NOFILE", "%w", err)
	}
	return r, nil
}

// tell logs what there is, and warns of a limit that is low.
func (r resources) tell(log *slog.Logger) {
	log.Info("descriptors and memory are divided", "open_files_limit", r.descriptors, "memory_limit_mib", r.memory>>20,
		"api_connections", r.api.Total, "attempts", r.attempts, "receiver_connections", r.receiverConnections,
		"subscriber_connections", r.subscribers, "vendor_connections", r.vendor)
	if r.descriptors < fewDescriptors {
		log.Warn("the limit of open files is low: receivers that hang leave others few attempts. Raise it with `ulimit -n`, LimitNOFILE= of systemd, "+
			"or the container's ulimits", "open_files_limit", r.descriptors, "attempts", r.attempts, "wanted", fewDescriptors)
	}
}

// descriptorLimit returns how many descriptors the process may have. Go has raised the soft limit to the hard one.
func descriptorLimit() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(l.Cur, 1<<20)), nil
}

// memoryLimit returns the limit that Go keeps to: GOMEMLIMIT, or nine tenths of what the cgroup allows, which it sets. 0: none.
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
