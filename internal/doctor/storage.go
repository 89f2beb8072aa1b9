package doctor

import (
	"context"
	"fmt"
	"strconv"
	"syscall"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

// fullAt is the share of a stream's limit from which on it is trouble, as for the alert.
const fullAt = 0.85

// scarce reports whether so little room is free that it is trouble, as for the alert: a tenth of a large disk is
// enough, and a small one may be half full for ever.
func scarce(free, total uint64) bool {
	share := float64(free) / float64(total)
	return share < 0.1 && free < 10<<30 || share < 0.25 && free < 1<<30
}

// storage looks at whether the store takes writes, and for how long it has room.
func (d *Doctor) storage(ctx context.Context) []Check {
	var found []Check
	if t := d.c.Store.Health().Trouble(); !t.Since.IsZero() {
		what := "reads fail"
		if t.Writes {
			what = "writes fail: nothing is read from the vendor meanwhile"
		}
		found = append(found, Wrong(Storage, "",
			fmt.Sprintf("%s, since %s (%s: %v)", what, t.Since.UTC().Format("15:04:05Z"), t.Reason, t.Err),
			"repair NATS, or make room; the relay goes on without you"))
	} else {
		found = append(found, Fine(Storage, "", "it takes writes and serves reads"))
	}
	if d.c.Embedded {
		found = append(found, DiskRoom(d.c.DataDir))
	}
	used, most, err := d.c.Store.AccountSize(ctx)
	switch {
	case err != nil:
		found = append(found, Unknown(Storage, "account", "JetStream does not say how full the account is: %v", err))
	case most == 0 && !d.c.Embedded:
		found = append(found, Unknown(Storage, "account",
			"it has no storage limit in NATS, so nothing can warn before the servers' disks are full: "+
				"set one (docs/nats.md, Room)"))
	case most > 0:
		found = append(found, accountRoom(used, most))
	}
	return found
}

// accountRoom judges the room that the account has left.
func accountRoom(used, most uint64) Check {
	finding := fmt.Sprintf("%s of %s are used", bytesOf(used), bytesOf(most))
	if scarce(most-min(used, most), most) {
		return Wrong(Storage, "account", finding,
			"raise the account's storage limit in NATS, or shorten RELAY_RETENTION")
	}
	return Fine(Storage, "account", finding)
}

// full judges how much of a limit is used.
func full(area Area, subject string, used, limit uint64, remedy string) Check {
	finding := fmt.Sprintf("%s of %s are used", bytesOf(used), bytesOf(limit))
	if float64(used) >= fullAt*float64(limit) {
		return Wrong(area, subject, finding, remedy)
	}
	return Fine(area, subject, finding)
}

// DiskRoom judges the room on the disk of the data directory.
func DiskRoom(dir string) Check {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return Unknown(Storage, "disk", "the data directory cannot be looked at: %v", err)
	}
	size := uint64(disk.Bsize)
	free, total := disk.Bavail*size, disk.Blocks*size
	finding := fmt.Sprintf("%s of %s are free on the disk of the data directory", bytesOf(free), bytesOf(total))
	if scarce(free, total) {
		return Wrong(Storage, "disk", finding,
			"make room, use a larger volume, or shorten RELAY_RETENTION: below 64 MiB the relay reads nothing from "+
				"the vendor")
	}
	return Fine(Storage, "disk", finding)
}

// streams compares the streams and buckets with what the relay needs, which also shows permissions that are missing.
func (d *Doctor) streams(ctx context.Context) []Check {
	found := Streams(ctx, d.c.Store.Topology(), d.c.Store.JetStream())
	return append(found, d.refused.found()...)
}

// Streams compares the streams and buckets with the table, and reports how full those with a limit are.
func Streams(ctx context.Context, t topology.Topology, js jetstream.JetStream) []Check {
	findings, err := t.Check(ctx, js)
	if err != nil {
		return []Check{Wrong(NATS, "streams", "they cannot be looked at: "+printable(err.Error()),
			"look at the NATS servers, and compare the relay's permissions with deploy/nats/relay-permissions.conf")}
	}
	var found []Check
	good := 0
	for _, f := range findings {
		switch f.State {
		case topology.StateOK:
			good++
		case topology.StateUnknown:
		case topology.StateMissing, topology.StateDiffers:
			found = append(found, Wrong(NATS, f.Stream, "it is "+string(f.State)+differences(f),
				"relay topology apply, or restart a relay"))
		case topology.StateChanged:
			found = append(found, Wrong(NATS, f.Stream, "somebody has changed what it is for"+differences(f),
				"undo it by hand; do not delete the stream"))
		case topology.StateForeign:
			found = append(found, Wrong(NATS, f.Stream, "it is not the relay's"+differences(f),
				"relay topology check, then docs/operations.md"))
		}
	}
	for _, f := range findings {
		if f.State == topology.StateUnknown || f.State == topology.StateMissing {
			continue
		}
		info, err := js.Stream(ctx, f.Stream)
		if err != nil {
			continue // the comparison has just seen it: there is trouble, and the storage's check reports it
		}
		if c := info.CachedInfo(); c.Config.MaxBytes > 0 {
			const remedy = "raise its max_bytes (it is kept), or shorten RELAY_RETENTION"
			if check := full(Storage, f.Stream, c.State.Bytes, uint64(c.Config.MaxBytes), remedy); check.State != OK {
				found = append(found, check)
			}
		}
	}
	return append(found, ok(NATS, "streams", "%d streams and buckets are as the relay needs them", good))
}

func differences(f topology.Finding) string {
	text := ""
	for _, d := range f.Differences {
		text += "; " + d.String()
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func keyName(id uint32) string { return "key " + strconv.FormatUint(uint64(id), 10) }

// bytesOf writes a number of bytes for people.
func bytesOf(n uint64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, name := float64(n), 0
	for value >= unit && name < 5 {
		value, name = value/unit, name+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[name-1])
}
