package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Snapshot is an order as the vendor returned it at one time.
type Snapshot struct {
	Order  json.RawMessage `json:"order"` // the vendor's JSON, every field and digit as it came
	ReadAt time.Time       `json:"readAt"`
}

// OrderState is the document in relay_orders. It is used to find out what changed, and to publish
// exactly once.
type OrderState struct {
	Site        string          `json:"site"`
	ID          string          `json:"id"`
	Order       json.RawMessage `json:"order,omitempty"`
	ReadAt      time.Time       `json:"readAt"`
	Status      string          `json:"status,omitempty"`
	Reference   string          `json:"reference,omitempty"` // its number at the shop (OrderReference)
	Revision    int             `json:"revision"`            // number of events of the order so far
	Sequence    uint64          `json:"sequence"`            // of the last event: microseconds
	LogPosition uint64          `json:"logPosition"`         // stream sequence of the last event
	// Published is the last inbox entry that has an event, per connection (see PackEntry).
	Published map[string]uint64 `json:"published,omitempty"`
	UpdatedAt time.Time         `json:"updatedAt"`
	// ReconciledAt is when the last event without a notification was published; zero if there was
	// none.
	ReconciledAt time.Time `json:"reconciledAt,omitzero"`
}

// Referenced is the document in relay_references for an order that had a reference at some time. It
// is written before the event with which the order gets the reference, so none is missing. The
// order's own document has its present reference.
type Referenced struct {
	ListedAt time.Time `json:"listedAt"`
}

// ReferenceToken returns what the keys of orders with a reference begin with in relay_references: of
// any text, in a form that is valid there. Case and space do not matter.
func ReferenceToken(reference string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.Join(strings.Fields(reference), " "))))
	return hex.EncodeToString(sum[:16])
}

// ReferenceKey is the key of an order in relay_references.
func ReferenceKey(reference, site, order string) string {
	return ReferenceToken(reference) + "." + site + "." + order
}

// Unresolved is a notification whose order could not be read, or something that arrived instead of
// a notification.
type Unresolved struct {
	// ID is <connection>.<inbox sequence>-<index>, or <connection>.foreign.<hash> for something
	// that is no notification.
	ID         string `json:"id"`
	Connection string `json:"connection"`
	Site       string `json:"site,omitempty"`
	// VendorSite is the vendor's id of the site, as in the notification.
	VendorSite   string    `json:"vendorSite,omitempty"`
	Order        string    `json:"order,omitempty"`
	Reason       string    `json:"reason"`
	Detail       string    `json:"detail,omitempty"`
	Raw          []byte    `json:"raw"`
	Size         int       `json:"size"` // the original size in bytes: larger than Raw if only its start could be kept
	InboxEntry   uint64    `json:"inboxEntry"`
	ReceivedAt   time.Time `json:"receivedAt"`
	UnresolvedAt time.Time `json:"unresolvedAt"`
	// RetriedAt is when it was last retried without success; nil if it never was.
	RetriedAt *time.Time `json:"retriedAt,omitempty"`
	// Count is how often it arrived; a notification always has 1. LastEntry and LastReceivedAt
	// belong to the last arrival.
	Count          int       `json:"count"`
	LastEntry      uint64    `json:"lastEntry"`
	LastReceivedAt time.Time `json:"lastReceivedAt"`
	// Published is set once the operational event about it is in the log. It is used for entries that
	// are not notifications, and for the notification of an unknown site whose event covers all of
	// that site.
	Published bool `json:"told,omitempty"`
}

// RetryOutcome is how a retry of an unresolved notification ended.
type RetryOutcome int

// The outcomes of a retry.
const (
	RetryResolved    RetryOutcome = iota // its event is in the log, and it is no longer unresolved
	RetryNotFound                        // there is no such unresolved notification
	RetryRefused                         // it still cannot be resolved, and stays; the error is the reason
	RetryUnavailable                     // the vendor or the store cannot be asked now
)

// OpenOrder is the document in relay_open, under <connection>.<site>.<order>, for an order that was
// seen through the connection and may still be open. The order's own document has its present
// status.
type OpenOrder struct {
	ListedAt time.Time `json:"listedAt"`
}

// OpenKey is the key of an order in relay_open.
func OpenKey(connection, site, order string) string { return connection + "." + site + "." + order }

// SplitOpenKey is the inverse of OpenKey. It returns false for a key of another form.
func SplitOpenKey(key string) (connection, site, order string, ok bool) {
	connection, rest, _ := strings.Cut(key, ".")
	site, order, _ = strings.Cut(rest, ".")
	return connection, site, order, connection != "" && site != "" && order != "" && !strings.Contains(order, ".")
}

// The statuses in which an order has ended and no change is expected, apart from the return of a
// delivered one. A status that the vendor adds later does not count as an end.
const (
	statusDelivered      = "Delivered"
	statusCancelled      = "Cancelled"
	statusReturnAccepted = "ReturnAccepted"
	statusReturnRejected = "ReturnRejected"
)

// orderStatuses are the statuses that the vendor documents.
var orderStatuses = []string{
	"New", "Confirmed", "Dispatched", statusDelivered, statusCancelled, "ReturnRequested", statusReturnAccepted,
	statusReturnRejected,
}

// IsClosed reports whether an order with this status has ended.
func IsClosed(status string) bool {
	return strings.EqualFold(status, statusCancelled) || strings.EqualFold(status, statusReturnAccepted) ||
		strings.EqualFold(status, statusReturnRejected)
}

// IsDelivered reports whether an order with this status has been delivered: a return is the only
// change still possible.
func IsDelivered(status string) bool { return strings.EqualFold(status, statusDelivered) }

// Received is one notification that has no event yet: where it is in the inbox, and what it
// contains.
type Received struct {
	Connection string
	Seq        uint64 // of the page in the inbox
	Index      int    // of the notification in the page
	Info       NotificationInfo
	Held       time.Duration // how much of the time since it was received it has waited for the vendor
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
	// Unlogged: the log has lost the event with which State was published, so readers may not know
	// State.
	Unlogged bool
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
	return [...]string{"published", "read-again", "store-trouble", "unfit", "too-large"}[o]
}
