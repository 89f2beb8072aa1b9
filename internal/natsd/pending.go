package natsd

import (
	"context"
	"runtime/metrics"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// What waits for subscribers that do not read is copied for each of them, and the server limits it
// per connection only. A limit so small that all connections together fit into the memory would
// disconnect those that are behind by one large event. So the sum is watched as well, and while it
// is too large, the connections with the most waiting bytes are closed. Subscribers that read are
// rarely among them, because bytes accumulate for those that do not. Only if one event for
// everybody is too large by itself, any subscriber may be affected.

const (
	// pendingEvery is how often it is checked whether the process has allocated much. That is very
	// cheap.
	pendingEvery = 20 * time.Millisecond
	// pendingPart is the part of Limits.Together after whose allocation the connections are
	// examined: the sum can grow by that much without being noticed.
	pendingPart = 16
)

// watchPending closes connections while too much waits for all of them together, until ctx ends.
func (s *Server) watchPending(ctx context.Context) {
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var seen uint64
	tick := time.NewTicker(pendingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(allocated)
		now := allocated[0].Value.Uint64()
		if now-seen < uint64(s.auth.limits.Together/pendingPart) {
			continue
		}
		seen = now
		s.shedPending()
	}
}

// shedPending closes the connections with the most waiting bytes until half of the limit is left,
// if the limit is exceeded.
func (s *Server) shedPending() {
	s.auth.mu.Lock()
	idle, own := len(s.auth.clients) == 0, s.auth.own
	s.auth.mu.Unlock()
	if idle {
		return
	}
	most := s.auth.limits.Connections + ownConnections
	open, err := s.server.Connz(&server.ConnzOptions{Limit: most, Sort: server.ByPending, State: server.ConnOpen})
	if err != nil {
		return // the server is ending
	}
	together := int64(0)
	for _, c := range open.Conns {
		if c.Cid != own {
			together += int64(c.Pending)
		}
	}
	if together <= s.auth.limits.Together {
		return
	}
	for _, c := range open.Conns {
		if together <= s.auth.limits.Together/2 {
			return
		}
		if c.Cid == own {
			continue
		}
		s.auth.mu.Lock()
		key := s.auth.clients[c.Cid].keyID
		s.auth.mu.Unlock()
		together -= int64(c.Pending)
		if s.server.DisconnectClientByID(c.Cid) == nil {
			s.mistakes.add("slow", "a subscriber was disconnected: it does not read, "+
				"and too much waits for all subscribers together (key "+key+")")
		}
	}
}
