package replay

import "math/bits"

// positions is a set of positions of a log. Its size depends on how much of the log its members
// cover, not on how many they are: a chunk takes 8 KiB.
type positions struct {
	chunks map[uint64]*[chunkWords]uint64
	last   uint64 // the highest chunk
}

const (
	chunkBits  = 16
	chunkWords = 1 << chunkBits / 64
)

func newPositions() *positions { return &positions{chunks: map[uint64]*[chunkWords]uint64{}} }

// set has a position be a member or not.
func (p *positions) set(seq uint64, member bool) {
	at := seq >> chunkBits
	chunk := p.chunks[at]
	switch {
	case chunk == nil && !member:
		return
	case chunk == nil:
		chunk = new([chunkWords]uint64)
		p.chunks[at], p.last = chunk, max(p.last, at)
	}
	word, bit := &chunk[seq>>6&(chunkWords-1)], uint64(1)<<(seq&63)
	if *word &^= bit; member {
		*word |= bit
	}
}

func (p *positions) has(seq uint64) bool {
	chunk := p.chunks[seq>>chunkBits]
	return chunk != nil && chunk[seq>>6&(chunkWords-1)]>>(seq&63)&1 != 0
}

// after returns up to most members above a position, ascending.
func (p *positions) after(seq uint64, most int) (members []uint64) {
	for next := seq + 1; len(members) < most && next>>chunkBits <= p.last; {
		chunk := p.chunks[next>>chunkBits]
		if chunk == nil {
			next = (next>>chunkBits + 1) << chunkBits
			continue
		}
		word := chunk[next>>6&(chunkWords-1)] >> (next & 63)
		if word == 0 {
			next = (next>>6 + 1) << 6
			continue
		}
		next += uint64(bits.TrailingZeros64(word))
		members = append(members, next)
		next++
	}
	return members
}
