package store

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Health says whether the store takes writes, as seen from the last ones.
type Health struct {
	mu    sync.Mutex
	log   *slog.Logger
	since time.Time // zero: fine
	last  error
}

// observe notes how a write ended. A refused condition is an answer: the store works. The log is told once when it
// stops taking writes and once when it does again, not for each write.
func (h *Health) observe(err error) {
	if errors.Is(err, context.Canceled) { // whoever wrote gave up; that says nothing of the store
		return
	}
	c := classify(err)
	bad := errors.Is(c, ErrUnavailable) || errors.Is(c, ErrUnclear)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case bad && h.since.IsZero():
		h.since, h.last = time.Now(), err
		h.log.Error("the store does not take writes; nothing is read from the vendor until it does", "error", err)
	case bad:
		h.last = err
	case !h.since.IsZero():
		h.log.Info("the store takes writes again", "after", time.Since(h.since).Round(time.Millisecond))
		h.since, h.last = time.Time{}, nil
	}
}

// Trouble answers since when writes fail, and the last failure; the zero time when they do not.
func (h *Health) Trouble() (time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.last
}
