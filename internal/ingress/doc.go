// Package ingress protects what strangers can reach: it bounds the connections of a listener, in total and per address,
// finds the address that a request came from when there are proxies in between, and slows down callers that guess
// tokens. Callers that behave are not locked out, however many connections do nothing. Begin with listener.go;
// address.go and guesses.go stand by themselves.
package ingress
