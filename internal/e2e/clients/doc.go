// Package clients tests that others can build on the API document: clients that public generators make from what a
// running relay serves, in Go and in TypeScript, compile and call this relay. It holds no code of the program, only
// tests. They need generators, so .ci/run runs them, and go test alone skips them. Begin reading at clients_test.go;
// what the clients do is in testdata/call and in tools/clients.
package clients
