// Package harness is what the tests that see the relay from outside have in common (internal/e2e, internal/e2e/cluster): programs
// as child processes whose log is kept, callers of the HTTP API, receivers that verify every delivery and write it down, servers that
// can tell when a dead client is gone, and the comparison of events with the ledger of the vendor's double. Tests import it, nothing else.
package harness
