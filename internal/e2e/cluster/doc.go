// Package cluster sees several relays at work on a NATS cluster while both are being hurt: three real NATS servers and three real
// relays as child processes on loopback, the vendor's double and receivers in the test, everything between relays and NATS through
// links that can be cut and delayed. It holds no code of the program, only tests:
//
//   - faults_test.go: the short suite (part of go test ./...) and the long one (RELAY_FAULT_ROUNDS, set by .ci/full; RELAY_FAULT_SEED
//     repeats an order of faults, RELAY_FAULT_LOGS names a directory for what all processes wrote);
//   - mutants_test.go: three relays broken on purpose, each of which the checks must find out (in the long suite).
//
// Nothing is judged by what the relay says of itself. What the vendor's double handed out is known from its ledger; who called it and
// when from a front of its own for each replica (vendor_test.go); who delivered what from the User-Agent, as each replica is a build
// with a version of its own; who held which shard, and with which epoch documents were written, from the buckets' streams, whose
// every revision a raw consumer writes down (history_test.go). The checks compare these (check_*_test.go).
package cluster
