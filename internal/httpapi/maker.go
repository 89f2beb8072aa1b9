package httpapi

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
)

// seedBytes is the size of what a request's ids and secrets are made of.
const seedBytes = 32

// maker makes the ids and secrets of what one request makes. The same request makes the same ones when it is run again, as after a
// replica that died with it: then what it has made already is found by its id, and is not made twice.
type maker struct{ seed []byte }

func newMaker() maker {
	seed := make([]byte, seedBytes)
	_, _ = rand.Read(seed) // never fails, see crypto/rand
	return maker{seed}
}

// bytes returns n random bytes for a purpose: others for another purpose, the same for the same one.
func (m maker) bytes(purpose string, n int) []byte {
	b, err := hkdf.Expand(sha256.New, m.seed, purpose, n)
	if err != nil { // n is a constant of ours, far below the most
		panic(err)
	}
	return b
}

// id returns a random id for a purpose, of the form of relay.NewID.
func (m maker) id(purpose string) string { return hex.EncodeToString(m.bytes(purpose, 16)) }
