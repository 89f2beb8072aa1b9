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

// entry is one message of a bucket that was written while its snapshot was taken.
type entry struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data,omitempty"`
	Time    time.Time   `json:"time"`
}

// ttlHeader says how long a message lives (NATS ADR-43).
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

// message is the entry as it is written anew. Conditions were those of its first writer.
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

// takeTail writes everything after a position of a bucket, up to a moment at which there was no more. What the bucket held then is
// the snapshot with the tail over it, exactly: a key whose last write is not in the tail was there all the time that the snapshot was read.
func takeTail(ctx context.Context, js jetstream.JetStream, dir, name string, after uint64) (*File, error) {
	fail := func(err error) (*File, error) {
		return nil, fmt.Errorf("follow stream %s behind its snapshot: %w", name, err)
	}
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1})
	if err != nil {
		return fail(err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fail(err)
	}
	if info.NumPending == 0 {
		return nil, nil
	}
	f, err := create(dir, name+".tail.json")
	if err != nil {
		return nil, err
	}
	sum, count := sha256.New(), &counter{}
	written, err := follow(ctx, consumer, json.NewEncoder(io.MultiWriter(f, sum, count)))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fail(err)
	}
	return &File{Name: name + ".tail.json", Size: count.n, SHA256: hex.EncodeToString(sum.Sum(nil)), Messages: written}, nil
}

func follow(ctx context.Context, consumer jetstream.Consumer, out *json.Encoder) (written uint64, err error) {
	messages, err := consumer.Messages()
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return written, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return written, err
		}
		if err := out.Encode(entry{m.Subject(), m.Headers(), m.Data(), meta.Timestamp}); err != nil {
			return written, err
		}
		written++
		if meta.NumPending == 0 {
			return written, nil
		}
	}
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
