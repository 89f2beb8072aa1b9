// Package e2e tests the whole relay from outside: the real program as a child process, the vendor's double in front of
// it, and receivers behind it that verify and record every delivery. Nothing is judged by a clock, and every check is
// about sets that are known exactly: what must have happened is in the double's ledger, and what the relay had stored
// when it died is in its data directory. Begin reading at flow_test.go, then follow the others:
//
//	flow_test.go      50 sites, 2,000 notifications, 5 callbacks of which three are in some way bad
//	crash_test.go     SIGKILL at random moments under load (5 times, RELAY_CRASH_KILLS=100 for the long version)
//	remains_test.go   a copy of the data directory, opened after each death
//	shutdown_test.go  SIGTERM under load
//	secrets_test.go   nothing secret in logs, responses, metrics or on the disk
package e2e
