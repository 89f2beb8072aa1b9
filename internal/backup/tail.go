package backup

import (
	"bufio"
	"context"
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
		case jetstream.ExpectedLastSeqHeader, jetstream.ExpectedLastSubjSeqHeader,
			jetstream.ExpectedLastSubjSeqSubjHeader, jetstream.ExpectedStreamHeader,
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
	written := uint64(0)
	tail, err := writeFile(dir, name+".tail.json", func(w io.Writer) error {
		out := json.NewEncoder(w)
		for subject := range missing {
			last, err := lastOf(ctx, js, name, subject)
			if err == nil && last != nil {
				err = out.Encode(last)
				written++
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take from stream %s what its snapshot lacks: %w", name, err)
	}
	tail.Messages = written
	return &tail, nil
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

const (
	// subjectsTimeout bounds the listing of a stream's subjects, a page of a hundred thousand at a
	// time.
	subjectsTimeout = 5 * time.Minute
	// subjectsOverlap is how far a page begins before the end of the one before it.
	subjectsOverlap = 1000
)

// subjects returns those of a stream's messages as its leader has them. A watch could miss one that
// is overwritten while it reads.
func subjects(ctx context.Context, js jetstream.JetStream, name string) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, subjectsTimeout)
	defer cancel()
	found, err := listSubjects(subjectsOverlap, func(offset int) (subjectsPage, error) {
		var page subjectsPage
		err := callWithin(ctx, subjectsTimeout, js, "STREAM.INFO."+name,
			map[string]any{"subjects_filter": ">", "offset": offset}, &page)
		return page, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the subjects of stream %s: %w", name, err)
	}
	return found, nil
}

// subjectsPage is what a stream's leader returns of its subjects (NATS JetStream API, STREAM.INFO):
// all of them sorted, from an offset on, as many as fit in one response.
type subjectsPage struct {
	Total int `json:"total"` // of all pages
	State struct {
		Subjects map[string]uint64 `json:"subjects"` // with the number of messages
	} `json:"state"`
}

// listSubjects joins pages so that every subject that is there from the first page to the last is
// in the result. What is removed between two pages moves those behind it forward. So a page that
// does not begin with a known subject may have passed over some, and is requested again from
// further before. The overlap is 1 or more, a page of the server's 2 or more.
func listSubjects(overlap int, page func(offset int) (subjectsPage, error)) (map[string]bool, error) {
	found, last := map[string]bool{}, ""
	for offset, back := 0, overlap; ; {
		p, err := page(offset)
		if err != nil {
			return nil, err
		}
		first, end := "", last
		for subject := range p.State.Subjects {
			if first == "" || subject < first {
				first = subject
			}
			end = max(end, subject)
		}
		if offset > 0 && (first == "" || first > last) {
			back *= 2
			offset = max(0, offset-back)
			continue
		}
		for subject := range p.State.Subjects {
			found[subject] = true
		}
		if next := offset + len(p.State.Subjects); next < p.Total {
			last, back = end, overlap
			offset = max(offset+1, next-overlap)
			continue
		}
		return found, nil
	}
}
