// Package api holds the relay's contracts: the OpenAPI document of the HTTP API and the JSON Schemas of its events, as
// the program enforces them, and the documents that it serves. The documents are the truth; internal/httpapi is
// generated from them and tested against them. Begin with openapi.yaml; build/ makes the served ones from it and from
// examples/.
package api

import "embed"

//go:generate go run ./build

// OpenAPI is the OpenAPI 3.1 document that the relay checks requests against. It refers to Schemas by relative paths.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Schemas holds the JSON Schemas of events, each under schemas/<name>.json.
//
//go:embed schemas/*.json
var Schemas embed.FS

// ServedOpenAPI is the OpenAPI 3.1 document for others: it refers to nothing outside itself, describes events by their
// types, and has examples. PublicURL stands in it for the relay's own address.
//
//go:embed served/openapi.yaml
var ServedOpenAPI []byte

// ServedAsyncAPI is the AsyncAPI 3.0 document of what services on NATS get. It refers to nothing outside itself.
//
//go:embed served/asyncapi.yaml
var ServedAsyncAPI []byte

// SampleDetails are the details of the example of each type of operational event, by type, as JSON.
//
//go:embed served/details.json
var SampleDetails []byte

// PublicURL stands in served documents for the relay's public address.
const PublicURL = "https://relay.example.com"
