// Package e2e tests the whole relay from outside: the real program as a child process, the vendor's
// double in front of it, and receivers behind it that verify and record every delivery. Nothing of
// the relay's own code lies in between. It holds no code of the program, only tests:
//
//   - flow_test.go: 50 sites, 2,000 notifications, 5 callbacks of which three are in some way bad;
//   - crash_test.go: SIGKILL at random moments under load (5 times, RELAY_CRASH_KILLS=100 for the long
//     version);
//   - shutdown_test.go: SIGTERM under load;
//   - secrets_test.go: nothing secret in logs, responses, metrics or on the disk.
//
// What must have happened is taken from the double's ledger: every notification that a response of
// the vendor's carried and that was not lost with it. What the relay had stored when it died is
// taken from its data directory, of which the harness opens a copy after each death
// (remains_test.go). So every check is about sets that are known exactly, independent of the timing
// of a run; nothing is judged by a clock. Begin reading at flow_test.go.
package e2e
