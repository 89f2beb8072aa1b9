// Package cluster tests several relays on a NATS cluster while faults are injected into both: three
// real NATS servers and three real relays as child processes on loopback, and the vendor's double
// and receivers in the test. Everything between relays and NATS goes through links that can be cut
// and delayed. It holds no code of the program, only tests:
//
//   - faults_test.go: the short suite (part of go test ./...) and the long one (RELAY_FAULT_ROUNDS,
//     set by .ci/full; RELAY_FAULT_SEED repeats an order of faults, RELAY_FAULT_LOGS names a directory
//     for what all processes wrote);
//   - mutants_test.go: three relays broken on purpose, each of which the checks must detect (in the
//     long suite).
//
// Nothing is judged by what the relay reports of itself. The double's ledger shows what was handed
// out. A front of its own for each replica shows who called the double and when (vendor_test.go).
// The User-Agent shows who delivered what, as each replica is a build with a version of its own.
// The buckets' streams show who held which shard, and with which epoch documents were written: a
// raw consumer records their every revision (history_test.go). The checks compare these
// (check_*_test.go). Begin reading at TestFaults.
package cluster
