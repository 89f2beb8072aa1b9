package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/apidocs"
)

// start implements GET /.
func (a *API) start(ctx context.Context, _ caller) (reply, error) {
	x := exchangeOf(ctx)
	x.response.Add("Vary", "Accept")
	if strings.Contains(strings.ToLower(strings.Join(x.request.Values("Accept"), ",")), "text/html") {
		return a.pageOf(ctx, apidocs.StartPath)
	}
	return a.page(ctx, func(p *apidocs.Pages) (apidocs.Page, bool) { return p.Start(), true })
}

// docs implements GET /docs.
func (a *API) docs(ctx context.Context, _ caller) (reply, error) {
	return a.pageOf(ctx, apidocs.DocsPath)
}

// docsStyle implements GET /docs/style.css.
func (a *API) docsStyle(ctx context.Context, _ caller) (reply, error) {
	return a.pageOf(ctx, apidocs.StylePath)
}

// docsEvent implements GET /docs/events/{type}.
func (a *API) docsEvent(ctx context.Context, _ caller, typ string) (reply, error) {
	return a.pageOf(ctx, apidocs.EventsPath+typ)
}

// openapi implements GET /openapi.yaml.
func (a *API) openapi(ctx context.Context, _ caller) (reply, error) {
	return a.pageOf(ctx, apidocs.OpenAPIPath)
}

// openapiJson implements GET /openapi.json.
func (a *API) openapiJson(ctx context.Context, _ caller) (reply, error) {
	return a.pageOf(ctx, apidocs.JSONPath)
}

// asyncapi implements GET /asyncapi.yaml.
func (a *API) asyncapi(ctx context.Context, _ caller) (reply, error) {
	return a.pageOf(ctx, apidocs.AsyncAPIPath)
}

func (a *API) pageOf(ctx context.Context, path string) (reply, error) {
	return a.page(ctx, func(p *apidocs.Pages) (apidocs.Page, bool) { return p.Page(path) })
}

// page sends a page that was made before. Browsers may keep it, and have to ask whether it is still the same.
func (a *API) page(ctx context.Context, choose func(*apidocs.Pages) (apidocs.Page, bool)) (reply, error) {
	x := exchangeOf(ctx)
	x.response.Set("Content-Security-Policy", apidocs.Policy)
	pages, err := a.pages()
	if err != nil {
		return reply{}, err
	}
	page, ok := choose(pages)
	if !ok {
		return reply{}, notFound()
	}
	x.response.Set("Cache-Control", "no-cache")
	x.response.Set("ETag", "W/"+page.ETag) // compressed or not
	x.response.Add("Vary", "Accept-Encoding")
	if named(x.request.Values("If-None-Match"), page.ETag) {
		return reply{status: http.StatusNotModified}, nil
	}
	body := page.Body
	if named(x.request.Values("Accept-Encoding"), "gzip") {
		x.response.Set("Content-Encoding", "gzip")
		body = page.Compressed
	}
	return reply{contentType: page.ContentType, body: body}, nil
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
