package settings

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/signal"
)

// followEvery is how often files are read again that may change while the relay runs.
const followEvery = 5 * time.Second

// Rereads has the files that are followed read again at once. Its zero value is ready for use.
type Rereads struct {
	mu        sync.Mutex
	followers []signal.Signal
}

// Now does so. It does not wait for it.
func (r *Rereads) Now() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.followers {
		s.Set()
	}
}

func (r *Rereads) add() signal.Signal {
	if r == nil {
		return nil
	}
	s := signal.New()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers = append(r.followers, s)
	return s
}

// Follow reads what a setting's file holds again until ctx ends, every few seconds and when rereads
// (which may be nil) asks for it, so that it can be replaced without a restart. While it cannot be
// read, what was known before stays in use, and the reason is logged once.
func Follow[T any](
	ctx context.Context, log *slog.Logger, rereads *Rereads, what string, read func() (T, error), take func(T),
) {
	again, asked := time.NewTicker(followEvery), rereads.add()
	defer again.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			failed = readAgain(log, what, failed, read, take)
		case <-asked:
			failed = readAgain(log, what, failed, read, take)
		}
	}
}

// readAgain returns why what a file holds could not be read, "" if it could. Failed is why it could
// not the last time.
func readAgain[T any](log *slog.Logger, what, failed string, read func() (T, error), take func(T)) string {
	value, err := read()
	if err != nil {
		if err.Error() != failed {
			log.Error(what+" cannot be read again; those known stay in use", "error", err)
		}
		return err.Error()
	}
	take(value)
	return ""
}
