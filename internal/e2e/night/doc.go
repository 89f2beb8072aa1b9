// Package night tests what an operator needs at night: the rules of deploy/prometheus and the pages of docs/runbook.md,
// against relays that run and have trouble, a real Prometheus and a real Alertmanager.
//
// It promises that every metric and label that a rule names exists, that every command of the runbook runs, and (in
// .ci/full) that each fault leads to the alerts that it should and to no others, the page of each of these to what is
// wrong, and that the panel of the question shows it. Without Prometheus its tests are skipped, unless
// RELAY_PROMETHEUS_WANTED is set. Begin reading at house_test.go and night_test.go.
package night
