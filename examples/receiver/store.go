package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// store has one file for each order, replaced as a whole. It is here so that the example needs no database, and
// survives the end of the program at any moment, but not every power cut. In your program its methods are three
// statements of SQL: docs/receiving.md has them.
type store struct {
	mu  sync.Mutex
	dir string
}

// The directories: the sequence of each order's newest event, and that event until it has been worked on.
const sequences, waiting = "sequences", "waiting"

func newStore(dir string) (*store, error) {
	for _, below := range []string{sequences, waiting} {
		if err := os.MkdirAll(filepath.Join(dir, below), 0o700); err != nil {
			return nil, fmt.Errorf("make the store: %w", err)
		}
	}
	return &store{dir: dir}, nil
}

// storeIfNewer is the whole rule against repeats, late arrivals and replays: it stores an event if its sequence is
// above that of its order. Sequences have sixteen digits, so they compare as text.
func (s *store) storeIfNewer(e event, body []byte) (newer bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, err := os.ReadFile(filepath.Join(s.dir, sequences, e.Subject))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the sequence of order %s: %w", e.Subject, err)
	}
	if e.Sequence <= string(last) {
		return false, nil
	}
	// The event before its sequence: a crash between them repeats the event, and loses nothing.
	if err := s.replace(filepath.Join(waiting, e.Subject), body); err != nil {
		return false, err
	}
	return true, s.replace(filepath.Join(sequences, e.Subject), []byte(e.Sequence))
}

func (s *store) replace(name string, content []byte) error {
	made := filepath.Join(s.dir, "new")
	file, err := os.Create(made)
	if err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(made, filepath.Join(s.dir, name))
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}

// waiting returns the orders with an event that has not been worked on.
func (s *store) waiting() ([]string, error) {
	files, err := os.ReadDir(filepath.Join(s.dir, waiting))
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	orders := make([]string, len(files))
	for i, file := range files {
		orders[i] = file.Name()
	}
	return orders, nil
}

// read returns the event of an order that waits.
func (s *store) read(order string) (e event, err error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, waiting, order))
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return event{}, fmt.Errorf("read the event of order %s: %w", order, err)
	}
	return e, nil
}

// worked removes an event that was worked on. If a newer one has come meanwhile, that still waits.
func (s *store) worked(e event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest, err := s.read(e.Subject)
	if err == nil && newest.Sequence == e.Sequence {
		err = os.Remove(filepath.Join(s.dir, waiting, e.Subject))
	}
	return err
}
