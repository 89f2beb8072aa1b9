package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/apidocs"
)

// Start implements GET /.
func (a *API) Start(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	a.page(w, r, func(p *apidocs.Pages) (apidocs.Page, bool) {
		if strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Accept"), ",")), "text/html") {
			return p.Page(apidocs.StartPath)
		}
		return p.Start(), true
	})
}

// Docs implements GET /docs.
func (a *API) Docs(w http.ResponseWriter, r *http.Request) { a.pageOf(w, r, apidocs.DocsPath) }

// DocsStyle implements GET /docs/style.css.
func (a *API) DocsStyle(w http.ResponseWriter, r *http.Request) { a.pageOf(w, r, apidocs.StylePath) }

// DocsEvent implements GET /docs/events/{type}.
func (a *API) DocsEvent(w http.ResponseWriter, r *http.Request, typ string) {
	a.pageOf(w, r, apidocs.EventsPath+typ)
}

// Openapi implements GET /openapi.yaml.
func (a *API) Openapi(w http.ResponseWriter, r *http.Request) { a.pageOf(w, r, apidocs.OpenAPIPath) }

// OpenapiJson implements GET /openapi.json.
func (a *API) OpenapiJson(w http.ResponseWriter, r *http.Request) { a.pageOf(w, r, apidocs.JSONPath) }

// Asyncapi implements GET /asyncapi.yaml.
func (a *API) Asyncapi(w http.ResponseWriter, r *http.Request) { a.pageOf(w, r, apidocs.AsyncAPIPath) }

func (a *API) pageOf(w http.ResponseWriter, r *http.Request, path string) {
	a.page(w, r, func(p *apidocs.Pages) (apidocs.Page, bool) { return p.Page(path) })
}

// page sends a page that was made before. Browsers may keep it, and have to ask whether it is still the same.
func (a *API) page(w http.ResponseWriter, r *http.Request, choose func(*apidocs.Pages) (apidocs.Page, bool)) {
	w.Header().Set("Content-Security-Policy", apidocs.Policy)
	a.do(w, r, func(context.Context, caller) (reply, error) {
		pages, err := a.pages()
		if err != nil {
			return reply{}, err
		}
		page, ok := choose(pages)
		if !ok {
			return reply{}, notFound()
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", "W/"+page.ETag) // compressed or not
		w.Header().Add("Vary", "Accept-Encoding")
		if named(r.Header.Values("If-None-Match"), page.ETag) {
			return reply{status: http.StatusNotModified}, nil
		}
		body := page.Body
		if named(r.Header.Values("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			body = page.Compressed
		}
		return reply{contentType: page.ContentType, body: body}, nil
	})
}

// named reports whether a header lists a value, and not with the weight zero.
func named(lines []string, value string) bool {
	for item := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, weight, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimPrefix(strings.TrimSpace(name), "W/"), value) {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}

// basePath returns the path of the relay's public address, which links on pages begin with.
func (c Config) basePath() string {
	u, err := url.Parse(c.PublicURL)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(u.EscapedPath(), "/")
}
