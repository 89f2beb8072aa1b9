// Package harness is what the tests that see the relay from outside have in common (internal/e2e,
// internal/e2e/cluster): programs as child processes whose log is kept, callers of the HTTP API, receivers
// (relaytest) with a server and a callback each, and servers that can tell when a dead client is gone. Tests import
// it, nothing else.
package harness
