package relay

import (
	"strings"
	"time"
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

// IsClosed reports whether an order with this status has ended.
func IsClosed(status string) bool {
	return strings.EqualFold(status, statusCancelled) || strings.EqualFold(status, statusReturnAccepted) ||
		strings.EqualFold(status, statusReturnRejected)
}

// IsDelivered reports whether an order with this status has been delivered: a return is the only
// change still possible.
func IsDelivered(status string) bool { return strings.EqualFold(status, statusDelivered) }
