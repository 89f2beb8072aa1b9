// Package httpapi is the relay's HTTP API. api/openapi.yaml is the contract: types, routes and the binding of parameters are
// generated from it, and every request is held against its schemas before a handler sees it (validate.go). The handlers speak to
// the store directly; every replica serves all of them. What only another part can do (send a sample, poll now, ask the vendor)
// comes in as a small interface in Config.
//
// Who may see what is decided in one place, caller.go: what a caller may not see does not exist (404).
package httpapi

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml ../../api/openapi.yaml
