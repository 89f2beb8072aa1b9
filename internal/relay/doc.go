// Package relay holds the words of the design as types: connection, site, notification, order, event, client, callback,
// attempt and delivery. It knows no store and no network; the four stages (poller, resolver, publisher, dispatcher) and the
// API speak to one another through these types and through the logs alone.
package relay
