package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/store"
)

const (
	// manifestFile is written last: a directory without it is no backup.
	manifestFile = "manifest.json"
	// proofFile holds what only the encryption keys open, and only beside this very manifest.
	proofFile = "manifest.proof"
	// manifestVersion is that of the manifest's form.
	manifestVersion = 2
)

// Manifest records what a backup holds.
type Manifest struct {
	Version int       `json:"version"`
	Release string    `json:"release"` // the program that made it
	Prefix  string    `json:"prefix"`  // RELAY_NATS_PREFIX
	Formats int       `json:"formats"` // the mark: what the documents may be
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	// Keys is the fingerprint of the encryption keys.
	Keys string `json:"keys"`
	// Sequence is the highest number that an event had.
	Sequence uint64    `json:"sequence"`
	Streams  []Stream  `json:"streams"` // in the order they were taken
	Consents []Consent `json:"consents"`
	// Ahead is how far numbers of events run ahead of the clock after Restore.
	Ahead time.Duration `json:"-"`

	place string // of the proof: bound to the manifest as it was read
	proof []byte
}

// Stream is one stream's snapshot, and of a bucket what was written while it was taken.
type Stream struct {
	Name     string                 `json:"name"`
	Messages uint64                 `json:"messages"`
	Bytes    uint64                 `json:"bytes"`
	FirstSeq uint64                 `json:"firstSeq"`
	LastSeq  uint64                 `json:"lastSeq"`
	Snapshot File                   `json:"snapshot"`
	Tail     *File                  `json:"tail,omitempty"`
	Config   jetstream.StreamConfig `json:"config"`
}

// File is one file of the backup.
type File struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
	Messages uint64 `json:"messages,omitempty"` // of a tail
}

// Consent is how old a connection's tokens are in the backup. If the relay has refreshed them
// since, the vendor takes the backup's no more.
type Consent struct {
	Connection  string    `json:"connection"`
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
}

// ReadManifest returns the manifest of a directory.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s holds no complete backup: there is no %s in it", dir, manifestFile)
	}
	if err != nil {
		return m, fmt.Errorf("read the backup: %w", err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("read %s of the backup: %w", manifestFile, err)
	}
	if m.Version != manifestVersion {
		return m,
			fmt.Errorf("the backup's manifest is of version %d, this program reads version %d: restore with the "+
				"release that made it (%s)",
				m.Version, manifestVersion, m.Release)
	}
	m.place = proofPlace(raw)
	if m.proof, err = os.ReadFile(filepath.Join(dir, proofFile)); err != nil {
		return m, fmt.Errorf("read the backup: %w", err)
	}
	return m, nil
}

// proofPlace binds the proof of the keys to a manifest: changed by a byte, it is not what they
// sealed.
func proofPlace(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return "backup manifest " + hex.EncodeToString(sum[:])
}

// verify reads every file through before anything is touched.
func (m Manifest) verify(dir string) error {
	for _, s := range m.Streams {
		err := s.Snapshot.verify(dir)
		if err == nil && s.Tail != nil {
			err = s.Tail.verify(dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f File) verify(dir string) error {
	if filepath.Base(f.Name) != f.Name {
		return fmt.Errorf("the backup names a file outside its directory: %q", f.Name)
	}
	file, err := os.Open(filepath.Join(dir, f.Name))
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); size != f.Size || got != f.SHA256 {
		return fmt.Errorf("%s of the backup is damaged: %d bytes with sha256 %s, not %d with %s",
			f.Name, size, got, f.Size, f.SHA256)
	}
	return nil
}

// write stores the proof of the keys and then the manifest, which makes a directory a backup.
func (m Manifest) write(dir string, keys *store.Sealer) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	raw = append(raw, '\n')
	proof, err := keys.Proof(proofPlace(raw))
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		raw  []byte
	}{{proofFile, proof}, {manifestFile, raw}} {
		if _, err := writeFile(dir, part.name,
			func(w io.Writer) error { _, err := w.Write(part.raw); return err }); err != nil {
			return fmt.Errorf("write %s: %w", part.name, err)
		}
	}
	return nil
}

// writeFile makes a file of the backup, has it written and synced, and describes it.
func writeFile(dir, name string, write func(io.Writer) error) (File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return File{}, fmt.Errorf("write the backup: %w", err)
	}
	sum, size := sha256.New(), &counter{}
	err = write(io.MultiWriter(f, sum, size))
	err = errors.Join(err, f.Sync(), f.Close())
	return File{Name: name, Size: size.n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// syncDir makes names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the backup: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the backup: %w", err)
	}
	return nil
}
