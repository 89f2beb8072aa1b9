package settings

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxRoots bounds a file of authorities, in bytes. All that a system trusts take about 250 KiB.
const maxRoots = 4 << 20

// ReadRoots reads the authorities that receivers' certificates may be from: the system's, and those
// of RELAY_CALLBACK_CA_FILE. It returns nil if the system's are all. It may be called more than
// once.
func (c Callbacks) ReadRoots() (*x509.CertPool, error) {
	if c.CallbackCAFile == "" {
		return nil, nil
	}
	const name = "RELAY_CALLBACK_CA_FILE"
	content, err := readFile(name, c.CallbackCAFile, maxRoots)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's authorities: %w", err)
	}
	if err := addRoots(pool, content); err != nil {
		return nil, Wrong(name, "%w", err)
	}
	return pool, nil
}

// addRoots adds the certificates of a PEM file to a pool. It refuses a file that holds anything
// else, because a certificate that is left out is found out much later, by receivers that cannot be
// reached.
func addRoots(pool *x509.CertPool, content []byte) error {
	n := 0
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("block %d of the file is no certificate: it may hold certificates of authorities only", n)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d of the file cannot be read", n)
		}
		pool.AddCert(certificate)
	}
	switch {
	case n == 0:
		return errors.New("the file holds no certificate in PEM")
	case bytes.Contains(content, []byte("-----BEGIN")):
		return fmt.Errorf("what follows certificate %d of the file cannot be read", n)
	}
	return nil
}
