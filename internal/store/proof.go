package store

import (
	"os"
	"path/filepath"
)

// Proof returns something that only these keys open at the same place. With it a later caller can
// check whether keys are the right ones.
func (s *Sealer) Proof(place string) ([]byte, error) { return s.seal(place, place) }

// CheckProof returns an error wrapping ErrSealed if none of these keys made the proof.
func (s *Sealer) CheckProof(place string, proof []byte) error {
	var said string
	return s.open(place, proof, &said)
}

// ReadKeyFile reads the key file in dir; unlike KeysFromFile it makes none.
func ReadKeyFile(dir string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, KeyFile)) }
