package httpapi

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
)

// seedBytes is the size of the seed for a request's ids and secrets.
const seedBytes = 32

// maker makes the ids and secrets for one request. If the request is run again, as after its
// replica has died, it makes the same ones: what was made already is found by its id and not made
// twice.
type maker struct{ seed []byte }

func newMaker() maker {
	seed := make([]byte, seedBytes)
	_, _ = rand.Read(seed) // never fails, see crypto/rand
	return maker{seed}
}

// bytes returns n random bytes for a purpose: always the same for the same purpose.
func (m maker) bytes(purpose string, n int) []byte {
	b, err := hkdf.Expand(sha256.New, m.seed, purpose, n)
	if err != nil { // n is a constant, far below the maximum
		panic(err)
	}
	return b
}

// id returns a random id for a purpose, in the form of relay.NewID.
func (m maker) id(purpose string) string { return hex.EncodeToString(m.bytes(purpose, 16)) }
