// Package night tests what an operator needs at night: the rules of deploy/prometheus and the pages of docs/runbook.md,
// against relays that run and have trouble, a real Prometheus and a real Alertmanager. Every metric and label that a
// rule names must exist, every command of the runbook must run, and (in .ci/full) each fault must lead to its alerts
// and to no others, the page of each of these to what is wrong, and the panel of the question must show it. Begin
// reading at house_test.go and night_test.go.
package night
