package store

import (
	"context"
	"errors"
	"time"

	"github.com/audatex-relay/relay/internal/jsapi"
)

const (
	// windowMost and windowBytes bound what backwards reads at once.
	windowMost  = 256
	windowBytes = 4 << 20
	// Where windowAfter messages that were wanted are within windowSpread times as many, reading
	// all of a stretch costs less than asking for each.
	windowAfter  = 8
	windowSpread = 4
)

// backwards reads messages of a stream at falling sequences. JetStream reads forwards only: it asks
// for one message after the other, and where they are close together it reads a whole stretch.
type backwards struct {
	s      *Store
	stream string

	window map[uint64]Message
	low    uint64              // the window has all from here on up to its end
	wanted [windowAfter]uint64 // the last ones, in a ring
	asked  int
	got    int // messages, and their bytes
	bytes  int
}

// get returns the message at a sequence, ErrNotFound if there is none any more.
func (b *backwards) get(ctx context.Context, seq uint64) (Message, error) {
	if m, ok := b.window[seq]; ok {
		return m, nil
	}
	before := b.wanted[b.asked%windowAfter]
	b.wanted[b.asked%windowAfter] = seq
	b.asked++
	if b.asked > windowAfter && before-seq <= windowAfter*windowSpread && (b.window == nil || seq < b.low) {
		if err := b.read(ctx, seq); err != nil {
			return Message{}, err
		}
		if m, ok := b.window[seq]; ok {
			return m, nil
		}
	}
	m, err := b.s.get(ctx, b.stream, seq)
	if errors.Is(err, ErrNotFound) && b.s.topo.Replicas > 1 { // the copy that was asked may lag
		m, err = b.s.atLeader(ctx, b.stream, jsapi.Selection{Seq: seq})
	}
	b.got, b.bytes = b.got+1, b.bytes+len(m.Data)
	return m, err
}

// read reads the stretch that ends at a sequence.
func (b *backwards) read(ctx context.Context, to uint64) error {
	size := uint64(windowSize(b.got, b.bytes))
	from := max(to, size) - size + 1
	messages, _, err := b.s.scan(ctx, b.stream, from, time.Time{}, nil, int(to-from+1))
	if err != nil {
		return err
	}
	b.window, b.low = make(map[uint64]Message, len(messages)), from
	for _, m := range messages {
		if m.Seq <= to {
			b.window[m.Seq] = m
			b.got, b.bytes = b.got+1, b.bytes+len(m.Data)
		}
	}
	return nil
}

// windowSize returns how many messages to read next, according to those that were read so far and
// their bytes.
func windowSize(got, bytes int) int {
	if got == 0 {
		return windowAfter
	}
	return min(max(windowBytes*got/max(bytes, 1), windowAfter), windowMost)
}
