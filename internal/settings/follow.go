package settings

import (
	"context"
	"log/slog"
	"time"
)

// followEvery is how often files are read again that may change while the relay runs.
const followEvery = 5 * time.Second

// Follow reads what a setting's file holds again until ctx ends, so that it can be replaced without
// a restart. While it cannot be read, what was known before stays in use, and the reason is logged
// once.
func Follow[T any](ctx context.Context, log *slog.Logger, what string, read func() (T, error), take func(T)) {
	again := time.NewTicker(followEvery)
	defer again.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
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
