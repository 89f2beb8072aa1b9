// Package receivers tests the receivers of examples/, each as a program of its own language: behind a real relay in
// front of the vendor's double, and with requests that a stranger could send. It holds no code of the program, only
// tests. The public libraries of Standard Webhooks verify deliveries as well (libraries_test.go). A language whose
// programs are not on this machine is skipped with the command that installs them; .ci/run installs all of them and
// skips none. Begin reading at receivers_test.go.
package receivers
