package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lookEvery is how often the store is looked at while something fails, lookTimeout how long one
	// probe may take.
	lookEvery   = time.Second
	lookTimeout = 2 * time.Second
	// trialMost bounds the size of the write that tries whether there is room again.
	trialMost = 256 << 10
	// startRoom is what a log must have left when the relay starts and before it goes on after the
	// log was full, or an eighth of its limit if that is less: a full page of a hundred
	// notifications has about as much.
	startRoom = 64 << 10
	// probeKey is the key of the trial in relay_lanes, which takes what expires by itself; probeTTL
	// is when.
	probeKey = "trial"
	probeTTL = time.Minute
)

// ErrDead reports that the embedded server has given a stream up: a write has failed once, nothing
// gets a response since, and only a restart repairs that.
var ErrDead = errors.New("the embedded NATS server no longer answers writes to a stream, although there is space; " +
	"restart the relay")

// Run looks after the store's health until ctx ends: a connection that is lost is trouble although
// nobody writes, and what has failed is tried again every second although nobody else does. While
// nothing fails it sends nothing. With an embedded server it ends with ErrDead once a stream is
// beyond waiting for; an external cluster is its operators' to mend.
func (s *Store) Run(ctx context.Context) error {
	status := s.conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED)
	defer s.conn.RemoveStatusListener(status)
	s.health.watch(true)
	defer s.health.watch(false)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-status:
			if now != nats.CONNECTED {
				s.health.connection(false)
				continue
			}
			s.probe(ctx)
		case <-tick.C:
			s.health.settle()
			s.probe(ctx)
			if stream := s.health.unresponsive(); stream != "" && s.room != nil && s.room.check(false) == nil {
				return fmt.Errorf("%w: %s", ErrDead, stream)
			}
		}
	}
}

func (s *Store) probe(ctx context.Context) {
	there := s.conn.IsConnected()
	if s.health.connection(there); !there {
		return
	}
	targets := s.health.troubled()
	if len(targets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	size := 0
	for at, refused := range targets {
		if at.write {
			size = max(size, refused.size)
		} else if at.stream != "" {
			_, _ = s.get(ctx, at.stream, 1) // notes itself how it ended
		}
	}
	tried, takes := false, false
	for at, refused := range targets {
		if !at.write {
			continue
		}
		if !tried {
			tried, takes = true, s.acceptsWrite(ctx, min(size, trialMost))
		}
		if takes && s.hasLeaderAndSpace(ctx, at.stream, refused) {
			s.health.probed(at)
		}
	}
}

// acceptsWrite reports whether the store takes a write of a size: a removal of what is not there, which
// nobody reads and which expires.
func (s *Store) acceptsWrite(ctx context.Context, size int) bool {
	m := nats.NewMsg(s.Lanes.subject(probeKey))
	m.Header.Set(headerOperation, "PURGE")
	m.Data = make([]byte, size)
	_, err := s.write(ctx, request{msg: m, opts: []jetstream.PublishOpt{jetstream.WithMsgTTL(probeTTL)}})
	return err == nil
}

// fullLogs records which logs are full already. A relay that starts would otherwise learn of it
// only by a refused write, and the first write into the inbox is a page that by then exists nowhere
// else.
func (s *Store) fullLogs(ctx context.Context) error {
	for _, stream := range []string{s.topo.Inbox(), s.topo.Events(), s.topo.Attempts(), s.topo.Audit()} {
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return fmt.Errorf("look whether %s is full: %w", stream, classify(err))
		}
		info := st.CachedInfo()
		if size := roomToGoOn(info); !hasRoom(info, size) {
			s.health.wrote(stream, size, time.Now(), &noRoom{"the log has reached its own limit of bytes or messages"})
		}
	}
	return nil
}

// hasLeaderAndSpace reports whether a stream has a leader, and room within its own limit for what was refused.
func (s *Store) hasLeaderAndSpace(ctx context.Context, stream string, refused failure) bool {
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return false
	}
	info := st.CachedInfo()
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return false
	}
	size := refused.size
	if refused.full > 0 {
		size = max(size, roomToGoOn(info))
	}
	return hasRoom(info, size)
}

func roomToGoOn(info *jetstream.StreamInfo) int {
	if limit := info.Config.MaxBytes; limit > 0 {
		return int(min(startRoom, limit/8))
	}
	return startRoom
}

func hasRoom(info *jetstream.StreamInfo, size int) bool {
	return (info.Config.MaxBytes <= 0 || info.State.Bytes+uint64(size) < uint64(info.Config.MaxBytes)) &&
		(info.Config.MaxMsgs <= 0 || info.State.Msgs < uint64(info.Config.MaxMsgs))
}

// streamOf returns the stream that stores a subject.
func (s *Store) streamOf(subject string) string {
	if bucket, ok := strings.CutPrefix(subject, "$KV."); ok {
		bucket, _, _ = strings.Cut(bucket, ".")
		return "KV_" + bucket
	}
	if _, ok := s.topo.ParseInboxSubject(subject); ok {
		return s.topo.Inbox()
	}
	switch {
	case strings.HasPrefix(subject, s.topo.AttemptsSubject("")):
		return s.topo.Attempts()
	case strings.HasPrefix(subject, s.topo.Prefix+".audit."):
		return s.topo.Audit()
	}
	return s.topo.Events()
}

// Readable returns an error if the store serves no reads. It asks for one message of the public
// log, which any server that keeps a copy of the log may serve.
func (s *Store) Readable(ctx context.Context) error {
	_, err := s.get(ctx, s.topo.Events(), 1)
	if errors.Is(err, ErrNotFound) { // the server has looked
		return nil
	}
	return err
}
