// Package httpapi is the relay's HTTP API. The contract is api/openapi.yaml: types, routes and the
// binding of parameters are generated from it (by templates, which decide what a handler gets and
// returns), and every request is checked against its schemas before a handler gets it. What a caller
// may not see does not exist for it (404), and that is decided in one place, caller.go. Begin with
// server.go, and exchange.go for a request's way.
//
// The handlers use the store directly, and every replica serves all of them. What only another part
// can do (send a sample, poll now, ask the vendor) is a small interface in Config.
package httpapi

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml -templates templates ../../api/openapi.yaml
