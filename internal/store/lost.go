package store

import (
	"fmt"
	"strings"
	"time"
)

// LostError reports that NATS has lost the end of logs, as in a power cut of all its servers. It
// gives the numbers of what is gone out again, and whoever remembers one of them would pass over
// the message that has it now.
type LostError struct{ Inbox, Events *Cut } // nil: nothing of it is lost

// Cut is what is lost of a log.
type Cut struct {
	Log   string // its stream
	Known uint64 // the highest number that was known of it
	End   uint64 // the last message of before that is still there
	// EndAt is when the log took the message at End; zero if that one is not there any more.
	EndAt time.Time
	// Grown is when the log took the first message after End; zero: there is none, or it is not
	// known.
	Grown time.Time
	// Connections lost pages, or events of what these brought.
	Connections []string
}

func (e *LostError) Error() string {
	var logs []string
	for _, c := range []*Cut{e.Inbox, e.Events} {
		if c != nil {
			logs = append(logs, fmt.Sprintf("%s ended at %d and now at %d", c.Log, c.Known, c.End))
		}
	}
	return "NATS has lost what was stored last, as in a power cut of all its servers (" + strings.Join(logs, ", ") +
		"). What was read beyond is set back, and the relay ends: start it again, as a process manager does by itself"
}

// InInbox returns what is lost of the inbox, nil if nothing is.
func (e *LostError) InInbox() *Cut {
	if e == nil {
		return nil
	}
	return e.Inbox
}

// InEvents returns what is lost of the log of events, nil if nothing is.
func (e *LostError) InEvents() *Cut {
	if e == nil {
		return nil
	}
	return e.Events
}

// Spares reports whether a document that was written at a time speaks of the messages that have the
// lost numbers now. What was written before there were any speaks of those that are lost.
func (c *Cut) Spares(written time.Time) bool {
	return c != nil && !c.Grown.IsZero() && !written.Before(c.Grown)
}
