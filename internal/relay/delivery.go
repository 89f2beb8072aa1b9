package relay

import (
	"net/netip"
	"slices"
	"time"
)

// DeliveryStatus is the status of one event at one callback.
type DeliveryStatus string

// The two states of a delivery under way, and its possible endings.
const (
	DeliveryPending   DeliveryStatus = "pending"   // not attempted yet
	DeliveryRetrying  DeliveryStatus = "retrying"  // attempted, in a lane
	DeliveryDelivered DeliveryStatus = "delivered" // a 2xx response
	DeliveryFailed    DeliveryStatus = "failed"    // all attempts of the schedule failed
	DeliverySkipped   DeliveryStatus = "skipped"   // by an operator, by mode latest, or because it no longer matched
	DeliveryExpired   DeliveryStatus = "expired"   // left the log before it could be delivered
)

// DeliveryPosition is where a delivery was that an operator wanted to be retried or skipped. Replicas of several
// versions send it to each other.
type DeliveryPosition string

// The positions.
const (
	PositionDue     DeliveryPosition = "due"     // it is due now, or under way
	PositionEarlier DeliveryPosition = "earlier" // it waits for an earlier event of its order
	PositionUnread  DeliveryPosition = "unread"  // the callback has not reached it yet
	PositionSkipped DeliveryPosition = "skipped" // it was skipped by this
	PositionEnded   DeliveryPosition = "ended"   // it does not wait: it has ended, or was not for the callback
)

// AttemptRecord is one attempt or, with Closing set, also the end of its delivery. One message of
// relay_attempts holds many.
type AttemptRecord struct {
	Event          string         `json:"event"` // event id; empty if it left the log unread
	Seq            uint64         `json:"seq"`   // position in the log of events
	Order          string         `json:"order"`
	Site           string         `json:"site,omitempty"` // empty, as Type, if the event left the log unread
	Type           string         `json:"type,omitempty"`
	Number         int            `json:"number"` // 1 for the first; 0: closed without an attempt
	At             time.Time      `json:"at"`
	DurationMillis float64        `json:"durationMillis,omitempty"`
	Outcome        string         `json:"outcome,omitempty"` // sender.Outcome as text
	Status         int            `json:"status,omitempty"`  // HTTP status, 0 without a response
	Error          string         `json:"error,omitempty"`
	Excerpt        string         `json:"excerpt,omitempty"`
	Phases         Phases         `json:"phases,omitzero"`
	Remote         netip.AddrPort `json:"remote,omitzero"`   // the receiver or the proxy
	Headers        string         `json:"headers,omitempty"` // of the response, see sender.Attempt
	Bytes          int            `json:"bytes,omitempty"`   // of the event
	Probe          bool           `json:"probe,omitempty"`
	NextAttemptAt  *time.Time     `json:"nextAttemptAt,omitempty"`
	Closing        DeliveryStatus `json:"closing,omitempty"`
	Late           bool           `json:"late,omitempty"`   // it ended after its delivery, which was skipped meanwhile
	Reason         string         `json:"reason,omitempty"` // why it was skipped or expired
	// Replay is the id of the replay that made the attempt, and Replayed how the event ended in it;
	// empty while it is retried. A replay that fails changes nothing in how the delivery ended before,
	// so that Closing is set only by a replay that has delivered.
	Replay   string         `json:"replay,omitempty"`
	Replayed DeliveryStatus `json:"replayed,omitempty"`
}

// Phases is where the time of an attempt went, in milliseconds. 0: there was no such phase.
type Phases struct {
	DNS       float64 `json:"dns,omitempty"`
	Connect   float64 `json:"connect,omitempty"`
	TLS       float64 `json:"tls,omitempty"`
	FirstByte float64 `json:"firstByte,omitempty"`
}

// AttemptBatch is one message of relay_attempts. Previous is the stream sequence of the callback's
// batch before it, 0 for none, so that "newest first" follows sequence numbers instead of
// searching. Replayed likewise is the last batch before it that has attempts of a replay, of the
// same generation.
type AttemptBatch struct {
	Callback   string          `json:"callback"`
	Generation string          `json:"generation"`
	Previous   uint64          `json:"previous"`
	Replayed   uint64          `json:"replayed,omitempty"`
	Tally      Tally           `json:"tally"` // of its hour, up to and including it
	Records    []AttemptRecord `json:"records"`
}

// End returns where the attempts end with the batch, if it is stored at a position.
func (b AttemptBatch) End(position uint64) AttemptsEnd {
	end := AttemptsEnd{Position: position, Generation: b.Generation, Tally: b.Tally, Replayed: b.Replayed}
	if b.OfReplay() {
		end.Replayed = position
	}
	return end
}

// OfReplay reports whether the batch has attempts of a replay.
func (b AttemptBatch) OfReplay() bool {
	return slices.ContainsFunc(b.Records, func(r AttemptRecord) bool { return r.Replay != "" })
}

// Of returns the records that are wanted. It keeps no others in memory.
func (b AttemptBatch) Of(wanted func(AttemptRecord) bool) (records []AttemptRecord) {
	for _, r := range b.Records {
		if wanted(r) {
			records = append(records, r)
		}
	}
	return records
}

// AttemptsEnd is where a callback's attempts end in the log, and what the next batch must carry
// on. The zero value is that of a callback without any.
type AttemptsEnd struct {
	Position   uint64 // of its last batch
	Generation string // of that batch: what another one of the same id does not continue
	Tally      Tally
	Replayed   uint64 // of the last batch that has attempts of a replay
}

// Batch returns the next batch.
func (e AttemptsEnd) Batch(callback, generation string, now time.Time, records []AttemptRecord) AttemptBatch {
	b := AttemptBatch{Callback: callback, Generation: generation, Previous: e.Position, Records: records}
	before := e.Position
	if b.Replayed = e.Replayed; e.Generation != generation {
		before, b.Replayed = 0, 0
	}
	b.Tally = e.Tally.After(before, now, records)
	return b
}
