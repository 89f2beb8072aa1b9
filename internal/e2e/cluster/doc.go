// Package cluster tests several relays on a NATS cluster while faults are injected into both: three real NATS servers
// and three real relays as child processes on loopback, over links that can be cut and delayed. Nothing is judged by
// what the relay reports of itself: the checks compare what the vendor's double, the receivers and the buckets' streams
// have seen. Begin reading at TestFaults, then follow what the checks use:
//
//	faults_test.go    the short suite (part of go test ./...) and the long one (RELAY_FAULT_ROUNDS, set by .ci/full;
//	                  RELAY_FAULT_SEED repeats an order of faults, RELAY_FAULT_LOGS names a directory for all logs)
//	vendor_test.go    a front of the double for each replica: who called the vendor, and when
//	main_test.go      builds each replica with a version of its own: the User-Agent shows who delivered what
//	history_test.go   a raw consumer of the buckets' streams: who held which shard, and which epoch each document had
//	check_*_test.go   the checks
//	mutants_test.go   three relays broken on purpose, each of which the checks must detect (in the long suite)
package cluster
