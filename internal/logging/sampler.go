package logging

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// How many lines of one message there may be within a window: about one order, and about everything else that is one
// owner's. Warnings and errors only; what is logged at lower levels is either no trouble or asked for.
const (
	window       = time.Minute
	linesOfOrder = 3
	linesOfOwner = 20
	mostSubjects = 16 << 10 // subjects that are counted at once; beyond that, lines are written as they come
	leftOut      = "left_out"
	orderKey     = "order"
	// a line of a request is never left out: it is the record of it, and callers have limits
	requestKey    = "request_id"
	longestSample = 128 // bytes of a value that distinguishes subjects
)

// owners are the attributes that name whose line it is; the first that a line has decides.
var owners = []string{"callback", "connection", "client", "site", "shard", "key", "remote"}

// subject is what a line is about.
type subject struct {
	owner, order string
	request      bool
}

// with adds an attribute.
func (s subject) with(a slog.Attr, rank *int) subject {
	switch a.Key {
	case requestKey:
		s.request = true
		return s
	case orderKey:
		s.order = text(a.Value)
		return s
	}
	for i, name := range owners {
		if a.Key == name && i < *rank {
			s.owner, *rank = name+" "+text(a.Value), i
		}
	}
	return s
}

func text(v slog.Value) string {
	s := v.Resolve().String()
	return strings.Clone(s[:min(len(s), longestSample)])
}

// sampler is a handler that leaves out lines of a flood.
type sampler struct {
	next  slog.Handler
	table *table
	about []slog.Attr // of With, outside groups
	group bool
}

// Enabled implements slog.Handler.
func (s sampler) Enabled(ctx context.Context, level slog.Level) bool {
	return s.next.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (s sampler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if !s.group {
		s.about = append(s.about[:len(s.about):len(s.about)], attrs...)
	}
	s.next = s.next.WithAttrs(attrs)
	return s
}

// WithGroup implements slog.Handler.
func (s sampler) WithGroup(name string) slog.Handler {
	s.next, s.group = s.next.WithGroup(name), true
	return s
}

// Handle implements slog.Handler.
func (s sampler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return s.next.Handle(ctx, r)
	}
	about, rank := subject{}, len(owners)
	for _, a := range s.about {
		about = about.with(a, &rank)
	}
	if !s.group {
		r.Attrs(func(a slog.Attr) bool {
			about = about.with(a, &rank)
			return true
		})
	}
	left, write := s.table.admit(s.next, r, about)
	if !write {
		return nil
	}
	return s.next.Handle(ctx, with(r, left))
}

// with adds to a line how many before it were left out.
func with(r slog.Record, left int) slog.Record {
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(leftOut, left))
	}
	return r
}

// table counts the lines of a window by message and subject.
type table struct {
	mu    sync.Mutex
	lines map[line]*count
	ended bool
}

// line is what distinguishes lines: an order's have an order, an owner's have none.
type line struct {
	message string
	subject
}

// count is what a subject has had in its window.
type count struct {
	written, left int
	latest        slog.Record // of those left out
	to            slog.Handler
	next          *time.Timer // the end of the window
}

func newTable() *table { return &table{lines: map[line]*count{}} }

// admit reports whether a line is written now, and how many before it were left out. A line that its order has no room
// for does not count against the owner.
func (t *table) admit(to slog.Handler, r slog.Record, about subject) (left int, write bool) {
	if about == (subject{}) || about.request {
		return 0, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return 0, true
	}
	if about.order != "" {
		order := t.count(line{r.Message, about})
		if order != nil && !order.admit(linesOfOrder, to, r) {
			return 0, false
		}
		left += order.takeLeft()
	}
	if about.owner != "" {
		owner := t.count(line{r.Message, subject{owner: about.owner}})
		if owner != nil && !owner.admit(linesOfOwner, to, r) {
			owner.left += left // the owner's next line reports them
			return 0, false
		}
		left += owner.takeLeft()
	}
	return left, true
}

// count returns the count of a line, a new one if it has none; nil if there are too many.
func (t *table) count(of line) *count {
	c := t.lines[of]
	if c == nil && len(t.lines) < mostSubjects {
		c = &count{}
		c.next = time.AfterFunc(window, func() { t.end(of) })
		t.lines[of] = c
	}
	return c
}

func (c *count) admit(most int, to slog.Handler, r slog.Record) bool {
	if c.written < most {
		c.written++
		return true
	}
	c.left++
	c.latest, c.to = r.Clone(), to
	return false
}

func (c *count) takeLeft() int {
	if c == nil {
		return 0
	}
	left := c.left
	c.left = 0
	return left
}

// end is called when a window ends. If lines were left out, the latest of them is written, with the number of the
// others, and a window begins in which no other is; so a flood that goes on is one line a minute.
func (t *table) end(of line) {
	if last := t.last(of); last != nil {
		last.flush()
	}
}

// last returns what must be written when a window ends, nil if nothing must. The line of an order counts as one of its
// owner's, who may have no room for it.
func (t *table) last(of line) *count {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.lines[of]
	switch {
	case t.ended || c == nil:
		return nil
	case c.left == 0:
		delete(t.lines, of)
		return nil
	}
	if of.order != "" && of.owner != "" {
		owner := t.count(line{of.message, subject{owner: of.owner}})
		if owner != nil && !owner.admit(linesOfOwner, c.to, c.latest) {
			owner.left += c.left - 1 // with the one that was not admitted
			delete(t.lines, of)
			return nil
		}
	}
	last := &count{left: c.takeLeft(), latest: c.latest, to: c.to}
	c.next.Reset(window)
	return last
}

// flush writes the latest of the lines that were left out. Its error is nobody's: that of a log has nowhere to go.
func (c *count) flush() {
	_ = c.to.Handle(context.Background(), with(c.latest, c.left-1))
	c.left = 0
}

// close writes what is left, and lets every later line pass.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	for _, c := range t.lines {
		c.next.Stop()
		if c.left > 0 {
			c.flush()
		}
	}
}
