// Package prom starts a real Prometheus for tests: one that scrapes running relays, evaluates rules, sends alerts, and
// serves queries. Nothing of it is a double: the program is Debian's (.ci/lib unpacks it), found by RELAY_PROMETHEUS,
// the directory of its programs, or in PATH, and without it the tests that need it are skipped, unless
// RELAY_PROMETHEUS_WANTED is set. Begin reading at Start.
package prom
