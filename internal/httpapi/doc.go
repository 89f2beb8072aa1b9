// Package httpapi is the relay's HTTP API: its contract is api/openapi.yaml, from which types, routes and the binding
// of parameters are generated, and every replica serves all of it. Every request is checked against the contract's
// schemas before a handler gets it, and what a caller may not see does not exist for it (404), which is decided in one
// place, caller.go. Begin with server.go, and exchange.go for a request's way.
package httpapi

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml -templates templates ../../api/openapi.yaml
