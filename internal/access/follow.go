package access

import (
	"context"
	"log/slog"
	"time"
)

// followEvery is how often the files of the administrators' tokens are read again.
const followEvery = 5 * time.Second

// Follow reads the administrators again until ctx ends, so that a token can be replaced without a
// restart. While they cannot be read, those known before stay, and the reason is logged once.
func (a *Admins) Follow(ctx context.Context, read func() ([]Admin, error), log *slog.Logger) {
	again := time.NewTicker(followEvery)
	defer again.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			failed = a.readAgain(read, failed, log)
		}
	}
}

// readAgain returns why the administrators could not be read, "" if they could. Failed is why they
// could not the last time.
func (a *Admins) readAgain(read func() ([]Admin, error), failed string, log *slog.Logger) string {
	admins, err := read()
	if err != nil {
		if err.Error() != failed {
			log.Error("the administrators' tokens cannot be read again; those known stay valid", "error", err)
		}
		return err.Error()
	}
	if added, removed := a.Replace(admins); len(added)+len(removed) > 0 {
		log.Warn("the administrators' tokens have changed", "added", added, "removed", removed)
	}
	return ""
}
