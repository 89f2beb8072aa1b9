package store

import "github.com/audatex-relay/relay/internal/relay"

// SealConsent encrypts the secrets of a consent, bound to the place they lie in: the attempt of a
// link.
func (s *Store) SealConsent(link, attempt string, secrets relay.ConsentSecrets) ([]byte, error) {
	return s.sealer.seal("consent "+link+" "+attempt, secrets)
}

// OpenConsent decrypts what SealConsent has encrypted for the same attempt.
func (s *Store) OpenConsent(link, attempt string, sealed []byte) (secrets relay.ConsentSecrets, err error) {
	err = s.sealer.open("consent "+link+" "+attempt, sealed, &secrets)
	return secrets, err
}
