package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

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
		err := callWithin(ctx, subjectsTimeout, js, "STREAM.INFO."+name, map[string]any{"subjects_filter": ">", "offset": offset}, &page)
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
