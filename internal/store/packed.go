package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/audatex-relay/relay/internal/relay"
)

// The attempts of a busy callback repeat most of what they say, so their batches are stored compressed (S2, in the
// block format): in about a third of the room, and with less CPU than the server takes to store the whole.
const (
	// packFrom is the size in bytes from which a batch is compressed. Smaller ones stay JSON.
	packFrom = 2 << 10
	// unpackedMost is the largest batch, in bytes, that is read: NATS takes no larger message.
	unpackedMost = 64 << 20
)

// packRoom has buffers to compress into.
var packRoom = sync.Pool{New: func() any { return new([]byte) }}

// packed is the first byte of a compressed batch. No JSON begins with it.
const packed = 's'

// pack returns a batch as it is stored.
func pack(batch []byte) []byte {
	if len(batch) < packFrom {
		return batch
	}
	room := packRoom.Get().(*[]byte)
	defer packRoom.Put(room)
	if most := s2.MaxEncodedLen(len(batch)); cap(*room) < most {
		*room = make([]byte, most)
	}
	return append([]byte{packed}, s2.Encode((*room)[:cap(*room)], batch)...)
}

// unpack returns the JSON of a stored batch.
func unpack(stored []byte) ([]byte, error) {
	block, compressed := bytes.CutPrefix(stored, []byte{packed})
	if !compressed {
		return stored, nil
	}
	switch n, err := s2.DecodedLen(block); {
	case err != nil:
		return nil, fmt.Errorf("unpack attempts: %w", err)
	case n > unpackedMost:
		return nil, errors.New("unpack attempts: they are larger than any message")
	}
	batch, err := s2.Decode(nil, block)
	if err != nil {
		return nil, fmt.Errorf("unpack attempts: %w", err)
	}
	return batch, nil
}

// decodeAttempts reads a stored batch.
func decodeAttempts(stored []byte) (b relay.AttemptBatch, err error) {
	batch, err := unpack(stored)
	if err == nil {
		err = json.Unmarshal(batch, &b)
	}
	return b, err
}
