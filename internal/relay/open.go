package relay

import (
	"strings"
	"time"
)

// OpenOrder is the document of relay_open, under <connection>.<site>.<order>: an order that was seen through the connection and may
// still be open. The order's own document says whether it is.
type OpenOrder struct {
	ListedAt time.Time `json:"listedAt"`
}

// OpenKey is the key of an order in relay_open.
func OpenKey(connection, site, order string) string { return connection + "." + site + "." + order }

// SplitOpenKey is the way back from OpenKey; false if the key is none of its.
func SplitOpenKey(key string) (connection, site, order string, ok bool) {
	connection, rest, _ := strings.Cut(key, ".")
	site, order, _ = strings.Cut(rest, ".")
	return connection, site, order, connection != "" && site != "" && order != "" && !strings.Contains(order, ".")
}

// The states in which an order has ended: nothing more is expected of it. A status that the vendor may add one day is not among them.
const (
	statusDelivered      = "Delivered"
	statusCancelled      = "Cancelled"
	statusReturnAccepted = "ReturnAccepted"
	statusReturnRejected = "ReturnRejected"
)

// IsClosed reports whether an order with this status is at its end.
func IsClosed(status string) bool {
	return strings.EqualFold(status, statusCancelled) || strings.EqualFold(status, statusReturnAccepted) || strings.EqualFold(status, statusReturnRejected)
}

// IsDelivered reports whether an order with this status has been delivered: the only change to come would be a return.
func IsDelivered(status string) bool { return strings.EqualFold(status, statusDelivered) }
