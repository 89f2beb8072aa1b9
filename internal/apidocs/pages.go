// Package apidocs makes the documents and pages that describe the API: the OpenAPI document in YAML and JSON, the
// AsyncAPI document, a reference for people and one page for each type of event. All of them are made once, from the
// documents in api/ with the relay's public address in them and nothing else of the relay, and pages have no scripts
// and one style sheet, so that a strict content security policy fits them. Begin with New.
package apidocs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"strings"

	"github.com/audatex-relay/relay/api"
	"github.com/audatex-relay/relay/internal/yamljson"
)

// Policy is the content security policy of all pages.
const Policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Paths of what is served. The page of a type of event is EventsPath + its type.
const (
	StartPath    = "/"
	DocsPath     = "/docs"
	StylePath    = "/docs/style.css"
	EventsPath   = "/docs/events/"
	OpenAPIPath  = "/openapi.yaml"
	JSONPath     = "/openapi.json"
	AsyncAPIPath = "/asyncapi.yaml"
)

const htmlType = "text/html; charset=utf-8"

// Page is something to serve.
type Page struct {
	ContentType string
	Body        []byte
	Compressed  []byte // Body, compressed by gzip
	ETag        string
}

// Pages holds everything by its path. It is not changed after New.
type Pages struct {
	byPath map[string]Page
	start  Page
}

// New makes all pages. PublicURL is the relay's address, as links to it begin, without a trailing slash; links are
// relative to the host if it is empty.
func New(publicURL string) (*Pages, error) {
	openAPI, asyncAPI := addressed(api.ServedOpenAPI, publicURL), addressed(api.ServedAsyncAPI, publicURL)
	doc, err := parse(openAPI)
	if err != nil {
		return nil, err
	}
	v := view{Base: BasePath(publicURL), doc: doc, Reference: doc.reference()}
	p := &Pages{byPath: map[string]Page{}}
	if p.start, err = newPage("application/json", start(publicURL, v.Reference)); err != nil {
		return nil, err
	}
	plain := map[string]struct {
		contentType string
		body        []byte
	}{
		OpenAPIPath:  {"application/yaml", openAPI},
		JSONPath:     {"application/json", yamljson.Compact(doc.root)},
		AsyncAPIPath: {"application/yaml", asyncAPI},
		StylePath:    {"text/css; charset=utf-8", style},
	}
	for path, of := range plain {
		if p.byPath[path], err = newPage(of.contentType, of.body); err != nil {
			return nil, err
		}
	}
	if err := p.render(StartPath, "start.html", v); err != nil {
		return nil, err
	}
	if err := p.render(DocsPath, "docs.html", v); err != nil {
		return nil, err
	}
	for _, typ := range v.Reference.Events {
		v.Event = doc.event(typ)
		if err := p.render(EventsPath+typ, "event.html", v); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Page returns what is served under a path.
func (p *Pages) Page(path string) (Page, bool) {
	page, ok := p.byPath[path]
	return page, ok
}

// Start returns what is served under StartPath to those who do not ask for HTML.
func (p *Pages) Start() Page { return p.start }

// view is what templates are given.
type view struct {
	Base      string // the path before every link
	doc       document
	Reference reference
	Event     event
}

func (p *Pages) render(path, name string, v view) error {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, v); err != nil {
		return fmt.Errorf("make the page %s: %w", path, err)
	}
	var err error
	p.byPath[path], err = newPage(htmlType, b.Bytes())
	return err
}

func newPage(contentType string, body []byte) (Page, error) {
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	if _, err := w.Write(body); err != nil {
		return Page{}, fmt.Errorf("compress a page: %w", err)
	}
	if err := w.Close(); err != nil {
		return Page{}, fmt.Errorf("compress a page: %w", err)
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return Page{contentType, bytes.Clone(body), bytes.Clone(compressed.Bytes()), tag}, nil
}

// addressed returns a document with the relay's address in the place of the example's, and without its first line,
// which names it as generated.
func addressed(document []byte, publicURL string) []byte {
	_, document, _ = bytes.Cut(document, []byte("\n"))
	if publicURL == "" {
		return bytes.Replace(document, []byte("- url: "+api.PublicURL), []byte("- url: /"), 1)
	}
	return bytes.ReplaceAll(document, []byte(api.PublicURL), []byte(publicURL))
}

// BasePath returns the path of the relay's address, which links on pages begin with.
func BasePath(publicURL string) string {
	u, err := url.Parse(publicURL)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(u.EscapedPath(), "/")
}

// start returns what the service is, as JSON.
func start(publicURL string, r reference) []byte {
	description, _, _ := strings.Cut(strings.TrimSpace(r.Text), "\n")
	b, err := json.MarshalIndent(map[string]any{
		"service": r.Title, "description": description,
		"links": map[string]string{
			"documentation": publicURL + DocsPath, "openapi": publicURL + JSONPath,
			"asyncapi": publicURL + AsyncAPIPath,
			"api":      publicURL + "/v1/",
		},
	}, "", "  ")
	if err != nil { // strings always encode
		panic(err)
	}
	return append(b, '\n')
}

//go:embed style.css
var style []byte

//go:embed *.html
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"prose": prose, "line": line, "lower": strings.ToLower, "join": strings.Join,
}).ParseFS(files, "*.html"))
