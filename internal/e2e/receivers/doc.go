// Package receivers tests the receivers of examples/, each as a program of its own language: behind a real relay in
// front of the vendor's double, and with requests that a stranger could send. The public libraries of Standard Webhooks
// verify deliveries as well (libraries_test.go), and a language whose programs are not on this machine is skipped with
// the command that installs them. Begin reading at receivers_test.go.
package receivers
