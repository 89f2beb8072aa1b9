// Package ingress protects what strangers can reach. It bounds the connections of a listener, in
// total and per address; it finds the address that a request came from when there are proxies in
// between; and it slows down callers that guess tokens. Callers that behave are not locked out,
// however many connections do nothing. Begin with listener.go; address.go and guesses.go stand by
// themselves.
//
// Addresses are always counted by network: an IPv4 address by itself, an IPv6 address by its /64,
// because the owner of one address of a /64 has all of them.
package ingress
