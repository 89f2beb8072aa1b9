// Package prom starts a real Prometheus for tests: one that scrapes running relays, evaluates rules, sends alerts, and
// answers queries. Only tests import it.
//
// Nothing of it is a double. The program is Debian's, found by RELAY_PROMETHEUS (the directory of its programs) or in
// PATH; .ci/lib unpacks it (need_promtool). Without it the tests that need it are skipped, unless
// RELAY_PROMETHEUS_WANTED is set. Begin reading at Start.
package prom
