// Package harness is what the tests that see the relay from outside have in common (internal/e2e,
// internal/e2e/cluster): programs, made once and run as child processes whose log is kept, callers of
// the HTTP API, receivers (relaytest) with a server and a callback each, and servers that can report
// when a dead client is gone. Only tests and the bench import it. Begin reading at Programs,
// StartProcess, Caller and Receiver.
package harness
