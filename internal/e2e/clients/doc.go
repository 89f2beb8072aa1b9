// Package clients tests that others can build on the API document. Clients that public generators make from what a
// running relay serves, in Go and in TypeScript, must compile and call this relay; without the generators, which
// .ci/run installs, the tests are skipped. Begin reading at clients_test.go; what the clients do is in testdata/call
// and in tools/clients.
package clients
