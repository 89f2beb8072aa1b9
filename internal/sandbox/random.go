package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// dice is the randomness of one thing (an order, a grant, a draw of a fault). Each thing has its
// own, derived from the seed and the thing's number, so that the order in which goroutines run
// elsewhere does not change it.
type dice struct{ *rand.Rand }

// dice returns the randomness of the n-th thing of a kind.
func (s *Sandbox) dice(kind string, n uint64) dice {
	h := fnv.New64a()
	_, _ = h.Write([]byte(kind)) // a hash never fails
	return dice{rand.New(rand.NewPCG(s.cfg.Seed^h.Sum64(), n))}
}

// oneIn returns true in one of n cases.
func (d dice) oneIn(n int) bool { return d.IntN(n) == 0 }

// bytes returns 16 random bytes.
func (d dice) bytes() (b [16]byte) {
	binary.LittleEndian.PutUint64(b[:8], d.Uint64())
	binary.LittleEndian.PutUint64(b[8:], d.Uint64())
	return b
}

// uuid returns a version 4 uuid in lower case.
func (d dice) uuid() string {
	b := d.bytes()
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return uuid.UUID(b).String()
}

// token returns 32 hex digits. It looks like a secret, but is repeatable like everything here.
func (d dice) token() string {
	b := d.bytes()
	return hex.EncodeToString(b[:])
}

// pick returns one of the choices.
func pick[T any](d dice, choices []T) T { return choices[d.IntN(len(choices))] }

// vendorTime formats a time as the vendor does: UTC, seven fractional digits, and the Z if zone is
// set.
func vendorTime(t time.Time, zone bool) string {
	s := t.UTC().Format("2006-01-02T15:04:05.0000000")
	if zone {
		s += "Z"
	}
	return s
}
