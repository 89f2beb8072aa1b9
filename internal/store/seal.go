package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/audatex-relay/relay/internal/relay"
)

// KeyFile is the name of the key file that the embedded mode makes beside its data on first start.
// It must not be in a backup of the data: anyone who has both can read every secret.
const KeyFile = "encryption-keys.json"

// ErrSealed reports that secrets were encrypted with a key that this process does not have.
var ErrSealed = errors.New("none of the encryption keys fits (RELAY_ENCRYPTION_KEYS)")

// Sealer encrypts what must not be on the disk in the clear. Every ciphertext is bound to the
// place where it is stored.
type Sealer struct {
	aead     tink.AEAD
	primary  uint32   // the id of the key that encrypts
	readable []uint32 // those of all that decrypt
}

// NewKeys returns a fresh Tink keyset (AES-256-GCM) as JSON: what RELAY_ENCRYPTION_KEYS takes.
func NewKeys() ([]byte, error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make an encryption key: %w", err)
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&b)); err != nil {
		return nil, fmt.Errorf("write an encryption key: %w", err)
	}
	return b.Bytes(), nil
}

// NewSealer reads a Tink keyset in JSON, or several: see mergeKeysets. The primary key of the first
// encrypts, all keys of all decrypt.
func NewSealer(keys []byte) (*Sealer, error) {
	merged, primary, readable, err := mergeKeysets(keys)
	if err != nil {
		return nil, err
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(merged)))
	if err != nil {
		return nil, errKeyset // the cause could quote key material
	}
	a, err := aead.New(h)
	if err != nil {
		return nil, fmt.Errorf("not a keyset for AEAD: %w", err)
	}
	return &Sealer{aead: a, primary: primary, readable: readable}, nil
}

// again encrypts with the key that encrypts now what any of the keys has encrypted for a place.
func (s *Sealer) again(place string, sealed []byte) ([]byte, error) {
	plain, err := s.aead.Decrypt(sealed, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("decrypt the secrets of %s: %w", place, ErrSealed)
	}
	defer clear(plain)
	sealed, err = s.aead.Encrypt(plain, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("encrypt the secrets of %s: %w", place, err)
	}
	return sealed, nil
}

// KeysFromFile reads the key file in dir, or makes it (0600) on the first start.
func KeysFromFile(dir string) ([]byte, error) {
	path := filepath.Join(dir, KeyFile)
	keys, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return nil, fmt.Errorf("read the encryption keys: %w", err)
		}
		return keys, nil
	}
	if keys, err = NewKeys(); err != nil {
		return nil, err
	}
	// Written aside and renamed, so that a crash leaves a whole file or none; synced, as losing it
	// loses every token.
	f, err := os.CreateTemp(dir, KeyFile+".*")
	if err != nil {
		return nil, fmt.Errorf("make the file of encryption keys: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(keys)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("make the file of encryption keys: %w", err)
	}
	return keys, nil
}

// Fingerprint names a keyset without revealing it: eight bytes of its hash.
func Fingerprint(keys []byte) string {
	sum := sha256.Sum256(keys)
	return hex.EncodeToString(sum[:8])
}

func (s *Sealer) seal(place string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the secrets of %s: %w", place, err)
	}
	sealed, err := s.aead.Encrypt(plain, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("encrypt the secrets of %s: %w", place, err)
	}
	return sealed, nil
}

func (s *Sealer) open(place string, sealed []byte, v any) error {
	plain, err := s.aead.Decrypt(sealed, []byte(place))
	if err != nil {
		return fmt.Errorf("decrypt the secrets of %s: %w", place, ErrSealed)
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("decode the secrets of %s: not what was stored", place)
	}
	return nil
}

// callbackCodec seals a callback's secrets apart from its other fields.
type callbackCodec struct{ sealer *Sealer }

func (c callbackCodec) encode(key string, v relay.Callback) ([]byte, error) {
	sealed, err := c.sealer.seal("callback "+key, v.Secrets)
	if err != nil {
		return nil, err
	}
	return relay.Encode(SealedCallback{v, sealed})
}

func (c callbackCodec) decode(key string, b []byte) (relay.Callback, error) {
	var stored SealedCallback
	if err := json.Unmarshal(b, &stored); err != nil {
		return relay.Callback{}, err
	}
	err := c.sealer.open("callback "+key, stored.Sealed, &stored.Secrets)
	return stored.Callback, err
}

// SealedCallback is a callback as it is stored: its secrets are not decrypted, and Callback.Secrets
// is empty.
type SealedCallback struct {
	relay.Callback
	Sealed []byte `json:"sealed"`
}

// SealCallback encrypts a callback's secrets.
func (s *Store) SealCallback(cb relay.Callback) (SealedCallback, error) {
	sealed, err := s.sealer.seal("callback "+cb.ID, cb.Secrets)
	cb.Secrets = relay.CallbackSecrets{}
	return SealedCallback{cb, sealed}, err
}

// OpenCallback decrypts a callback's secrets.
func (s *Store) OpenCallback(cb SealedCallback) (relay.Callback, error) {
	err := s.sealer.open("callback "+cb.ID, cb.Sealed, &cb.Secrets)
	return cb.Callback, err
}

// CanDecrypt reports whether the keys of the Sealer open any of the secrets that are stored, and how
// many they do not open, as far as it looked: it stops at the first one that they open.
func (s *Store) CanDecrypt(ctx context.Context) (opened bool, sealed int, err error) {
	opens := func(err error) bool {
		if errors.Is(err, ErrSealed) {
			sealed++
		}
		return err == nil
	}
	callbacks, err := s.Callbacks.All(ctx, "", func(_ string, err error) { opens(err) })
	if err != nil || len(callbacks) > 0 {
		return len(callbacks) > 0, sealed, err
	}
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return false, sealed, err
	}
	for _, e := range connections {
		if _, _, err := s.Tokens.Token(ctx, e.Key); opens(err) {
			return true, sealed, nil
		}
	}
	return false, sealed, nil
}

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

// SealConsent encrypts the secrets of a consent, bound to where they are stored: the attempt of a
// link.
func (s *Store) SealConsent(link, attempt string, secrets relay.ConsentSecrets) ([]byte, error) {
	return s.sealer.seal("consent "+link+" "+attempt, secrets)
}

// OpenConsent decrypts what SealConsent has encrypted for the same attempt.
func (s *Store) OpenConsent(link, attempt string, sealed []byte) (secrets relay.ConsentSecrets, err error) {
	err = s.sealer.open("consent "+link+" "+attempt, sealed, &secrets)
	return secrets, err
}
