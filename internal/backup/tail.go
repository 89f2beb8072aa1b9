package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// entry is one message of a bucket that its snapshot lacks.
type entry struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data,omitempty"`
	Time    time.Time   `json:"time"`
}

// ttlHeader sets how long a message lives (NATS ADR-43).
const ttlHeader = "Nats-TTL"

// expired reports whether the server would have removed the entry by itself by now.
func (e entry) expired(now time.Time) bool {
	ttl := e.Header.Get(ttlHeader)
	if ttl == "" {
		return false
	}
	d, err := time.ParseDuration(ttl)
	if err != nil {
		if d, err = time.ParseDuration(ttl + "s"); err != nil {
			return false
		}
	}
	return now.After(e.Time.Add(d))
}

// message is the entry as it is written again. Conditions were those of its first writer.
func (e entry) message() *nats.Msg {
	m := &nats.Msg{Subject: e.Subject, Header: nats.Header{}, Data: e.Data}
	for key, values := range e.Header {
		switch key {
		case jetstream.ExpectedLastSeqHeader, jetstream.ExpectedLastSubjSeqHeader, jetstream.ExpectedLastSubjSeqSubjHeader, jetstream.ExpectedStreamHeader,
			jetstream.ExpectedLastMsgIDHeader, jetstream.MsgIDHeader:
		default:
			m.Header[key] = values
		}
	}
	return m
}

// takeTail writes the present value of every subject that is in a bucket and was not in its
// snapshot: it was overwritten before the snapshot came to it, or is new.
func takeTail(ctx context.Context, js jetstream.JetStream, dir, name string, missing map[string]bool) (*File, error) {
	if len(missing) == 0 {
		return nil, nil
	}
	f, err := create(dir, name+".tail.json")
	if err != nil {
		return nil, err
	}
	sum, count, written := sha256.New(), &counter{}, uint64(0)
	out := json.NewEncoder(io.MultiWriter(f, sum, count))
	for subject := range missing {
		var last *entry
		if last, err = lastOf(ctx, js, name, subject); err == nil && last != nil {
			err = out.Encode(last)
			written++
		}
		if err != nil {
			break
		}
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("take from stream %s what its snapshot lacks: %w", name, err)
	}
	return &File{Name: name + ".tail.json", Size: count.n, SHA256: hex.EncodeToString(sum.Sum(nil)), Messages: written}, nil
}

// putTail writes a bucket's tail over its restored snapshot.
func putTail(ctx context.Context, js jetstream.JetStream, dir string, tail *File, now time.Time) error {
	if tail == nil {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, tail.Name))
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer func() { _ = f.Close() }()
	entries := json.NewDecoder(bufio.NewReader(f))
	for {
		var e entry
		if err := entries.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s of the backup: %w", tail.Name, err)
		}
		if e.expired(now) {
			continue
		}
		if _, err := js.PublishMsg(ctx, e.message()); err != nil {
			return fmt.Errorf("restore %s: %w", e.Subject, err)
		}
	}
}
