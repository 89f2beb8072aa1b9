package relay

import "strconv"

// Received is one notification that waits for its event: where in the inbox it stands and what it says of itself.
type Received struct {
	Connection string
	Seq        uint64 // of the page in the inbox
	Index      int    // of the notification in the page
	Info       NotificationInfo
}

// Entry answers the notification's place in its connection's inbox as one number that rises.
func (r Received) Entry() uint64 { return PackEntry(r.Seq, r.Index) }

// String names the notification as logs do: <connection>-<inbox sequence>-<index>.
func (r Received) String() string {
	return r.Connection + "-" + strconv.FormatUint(r.Seq, 10) + "-" + strconv.Itoa(r.Index)
}

// UnresolvedID is the id of the notification in relay_unresolved: what is kept of a connection can be listed by the first part.
func (r Received) UnresolvedID() string {
	return r.Connection + "." + strconv.FormatUint(r.Seq, 10) + "-" + strconv.Itoa(r.Index)
}

// entryBits of an entry number are the index in the page, the rest is the page's sequence: 2^44 pages, a million
// notifications each.
const entryBits = 20

// LastIndex is the highest index an entry number can carry. No notification has it: it marks the end of a page.
const LastIndex = 1<<entryBits - 1

// PackEntry makes one number of a page's sequence and an index in the page (at most LastIndex).
func PackEntry(seq uint64, index int) uint64 { return seq<<entryBits | uint64(index) }

// UnpackEntry is the way back from PackEntry.
func UnpackEntry(entry uint64) (seq uint64, index int) {
	return entry >> entryBits, int(entry & LastIndex)
}

// Standing is where an order stood in the log before it was read from the vendor: what a new snapshot is compared with, and
// the position that its events expect to find the log at.
type Standing struct {
	State    OrderState // Site and ID are always set; the rest is zero at first sight
	Revision uint64     // of State in its bucket, 0 if it is not there
	Position uint64     // of the order's last event in the log, 0 if the log has none
	Waiting  []Received // the notifications that have no event yet, in the order of their arrival
}

// PublishOutcome is what publishing a reading of an order came to.
type PublishOutcome int

const (
	// Published: every notification that waited has its event in the log.
	Published PublishOutcome = iota
	// ReadAgain: the log was not where the standing said, or gave no clear answer. Where the order stands must be taken anew, and the order be
	// read again: what was read may be older than the event that came between.
	ReadAgain
	// StoreTrouble: the store cannot be used now. Nothing is lost; try again later, from taking the standing on.
	StoreTrouble
	// Unfit: the reading cannot become an event: it is no JSON object.
	Unfit
	// TooLarge: the event is larger than the log takes. The same reading would end in the same way.
	TooLarge
)

// String is the name used in metrics and logs.
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
