package relay

import "strconv"

// Received is one notification that has no event yet: where it is in the inbox, and what it
// contains.
type Received struct {
	Connection string
	Seq        uint64 // of the page in the inbox
	Index      int    // of the notification in the page
	Info       NotificationInfo
}

// Entry returns the notification's place in its connection's inbox as one rising number.
func (r Received) Entry() uint64 { return PackEntry(r.Seq, r.Index) }

// String returns the notification's name in logs: <connection>-<inbox sequence>-<index>.
func (r Received) String() string {
	return r.Connection + "-" + strconv.FormatUint(r.Seq, 10) + "-" + strconv.Itoa(r.Index)
}

// UnresolvedID is the id of the notification in relay_unresolved. It begins with the connection, so
// that a connection's entries can be listed.
func (r Received) UnresolvedID() string {
	return r.Connection + "." + strconv.FormatUint(r.Seq, 10) + "-" + strconv.Itoa(r.Index)
}

// entryBits is the number of bits that the index takes in an entry number. The rest is the page's
// sequence: 2^44 pages of a million notifications each.
const entryBits = 20

// LastIndex is the highest index that fits in an entry number. No notification has it: it marks the
// end of a page.
const LastIndex = 1<<entryBits - 1

// PackEntry combines a page's sequence and an index in the page (at most LastIndex) in one number.
func PackEntry(seq uint64, index int) uint64 { return seq<<entryBits | uint64(index) }

// UnpackEntry is the inverse of PackEntry.
func UnpackEntry(entry uint64) (seq uint64, index int) {
	return entry >> entryBits, int(entry & LastIndex)
}

// OrderPosition is an order's state before it is read from the vendor: the snapshot that the new
// one is compared with, and the position in the log after which its next event must come.
type OrderPosition struct {
	State    OrderState // Site and ID are always set; the rest is zero for a new order
	Revision uint64     // of State in its bucket, 0 if it is not there
	Position uint64     // of the order's last event in the log, 0 if the log has none
	Waiting  []Received // the notifications that have no event yet, in the order in which they arrived
}

// PublishOutcome is the result of publishing a reading of an order.
type PublishOutcome int

const (
	// Published: every waiting notification has its event in the log.
	Published PublishOutcome = iota
	// ReadAgain: the log's last event of the order was not the expected one, or the store's
	// response was unclear. The caller must begin again with the order's position and read the
	// order again: the reading may be older than an event published in between.
	ReadAgain
	// StoreTrouble: the store cannot be used now. Nothing is lost; the caller tries again later,
	// beginning with the order's position.
	StoreTrouble
	// Unfit: the reading is no JSON object and cannot become an event.
	Unfit
	// TooLarge: the event is larger than the log allows. Publishing the same reading again would
	// fail again.
	TooLarge
)

// String returns the outcome's name in metrics and logs.
func (o PublishOutcome) String() string {
	switch o {
	case Published:
		return "published"
	case ReadAgain:
		return "read-again"
	case StoreTrouble:
		return "store-trouble"
	case Unfit:
		return "unfit"
	case TooLarge:
		return "too-large"
	}
	return "publish-outcome-" + strconv.Itoa(int(o))
}
