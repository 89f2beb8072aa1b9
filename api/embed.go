// Package api holds the relay's contracts: the OpenAPI document of the HTTP API and the JSON Schemas of its events, as the
// program serves and enforces them. The documents are the truth; internal/httpapi is generated from them and tested against them.
package api

import "embed"

// OpenAPI is the OpenAPI 3.1 document of the HTTP API. It refers to Schemas by relative paths.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Schemas holds the JSON Schemas of events, each under schemas/<name>.json.
//
//go:embed schemas/*.json
var Schemas embed.FS
