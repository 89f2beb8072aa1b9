// Package ingress guards what strangers can reach. It bounds the connections of a listener, in all and per address; it
// finds out which address a request came from when proxies stand in between; and it slows those who guess tokens.
//
// An address is always taken with its network: an IPv4 address counts for itself, an IPv6 address as its /64, since
// whoever has one address of a /64 has all of them.
package ingress
