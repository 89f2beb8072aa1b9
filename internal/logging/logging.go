// Package logging makes the program's log: its format, a level that changes while the program runs, and a bound for
// floods of lines. Trouble of one receiver, connection, site or order cannot fill the log, and no line about another is
// left out for it: beyond a few lines a minute the rest is counted, and the next line has how many were left out. Begin
// reading at New, then at sampler.
package logging

import (
	"context"
	"io"
	"log/slog"
)

// Log is the program's log.
type Log struct {
	*slog.Logger

	level, configured slog.Level
	current           *slog.LevelVar
	table             *table
}

// New returns a log that writes to w, as text or else as JSON.
func New(w io.Writer, level slog.Level, text bool) *Log {
	current := &slog.LevelVar{}
	current.Set(level)
	options := &slog.HandlerOptions{Level: current}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if text {
		handler = slog.NewTextHandler(w, options)
	}
	t := newTable()
	return &Log{Logger: slog.New(sampler{next: handler, table: t}), level: level, configured: level,
		current: current, table: t}
}

// ToggleDebug switches debug lines on, or back to the level that was configured (info if that is debug itself). The log
// logs that in one line, which is written whatever the two levels are. It must not be called by two goroutines at once.
func (l *Log) ToggleDebug() {
	before := l.level
	switch {
	case l.level != slog.LevelDebug:
		l.level = slog.LevelDebug
	case l.configured == slog.LevelDebug:
		l.level = slog.LevelInfo
	default:
		l.level = l.configured
	}
	l.current.Set(slog.LevelDebug)
	l.Log(context.Background(), max(before, l.level, slog.LevelInfo), "the log level was changed", "log_level",
		l.level.String(), "before", before.String())
	l.current.Set(l.level)
}

// Close writes what is still counted, and ends the sampling.
func (l *Log) Close() { l.table.close() }
