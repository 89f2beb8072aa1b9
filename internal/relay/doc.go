// Package relay defines the types of the domain: connection, site, notification, order, event,
// client, callback, attempt and delivery. It uses no store and no network, so every other package
// can import it; the four stages (poller, resolver, publisher, dispatcher) and the API exchange
// these types only. Begin with connection.go and event.go, which is what comes in and what goes
// out; diff.go compares two readings of an order.
package relay
