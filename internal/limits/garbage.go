package limits

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

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
