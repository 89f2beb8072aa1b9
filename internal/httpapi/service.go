package httpapi

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/apidocs"
	"github.com/audatex-relay/relay/internal/doctor"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/store"
)

// readyTimeout limits the read of the store for readiness.
const readyTimeout = 2 * time.Second

// livez implements GET /livez.
func (a *API) livez(_ context.Context, _ caller) (reply, error) {
	return reply{body: Liveness{Status: LivenessStatusOk}}, nil
}

// readyz implements GET /readyz.
func (a *API) readyz(ctx context.Context, _ caller) (reply, error) {
	ready := Readiness{Status: ReadinessStatusReady}
	ready.Storage.Status = ReadinessStorageStatusOk
	if trouble := a.c.Store.Health().Trouble(); !trouble.Since.IsZero() {
		ready.Storage.Status, ready.Storage.Since = ReadinessStorageStatusFailing, trouble.Since.UTC()
		ready.Storage.Reason = string(trouble.Reason)
	}
	status := http.StatusOK
	if ready.Reason = a.notReady(ctx); ready.Reason != "" {
		ready.Status, status = ReadinessStatusNotReady, http.StatusServiceUnavailable
	}
	return reply{status: status, body: ready}, nil
}

// notReady returns why requests should not be sent to this replica, or "".
func (a *API) notReady(ctx context.Context) string {
	select {
	case <-a.drain:
		return "draining"
	default:
	}
	for what, ready := range map[string]<-chan struct{}{
		"clients": a.c.Keys.Ready(), "callbacks": a.callbacks.Ready(), "replays": a.replays.Ready(),
		"connections": a.connections.Ready(), "requests": a.requests.Ready(), "consent links": a.c.Consents.Ready(),
	} {
		select {
		case <-ready:
		default:
			return "starting: the " + what + " are not read yet"
		}
	}
	if a.c.Ready != nil {
		if err := a.c.Ready(); err != nil {
			return err.Error()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := a.c.Store.Readable(ctx); err != nil { // an outage is logged once, and not for each probe
		return "the store does not answer reads"
	}
	return ""
}

// schema implements GET /schemas/{name}.
func (a *API) schema(_ context.Context, _ caller, name string) (reply, error) {
	schema := schemaNamed(name)
	if schema == nil {
		return reply{}, notFound()
	}
	return reply{contentType: "application/schema+json", body: schema}, nil
}

// problemPage implements GET /problems/{type}.
func (a *API) problemPage(ctx context.Context, _ caller, slug string) (reply, error) {
	exchangeOf(ctx).response.Set("Content-Security-Policy", apidocs.Policy)
	for _, k := range kinds {
		if k.slug != slug {
			continue
		}
		var page bytes.Buffer
		err := problemPage.Execute(&page, map[string]any{
			"Base": apidocs.BasePath(a.c.PublicURL), "Slug": k.slug, "Status": k.status, "Text": http.StatusText(k.status),
			"Title": k.title, "Help": k.help,
		})
		return reply{contentType: "text/html; charset=utf-8", body: page.Bytes()}, err
	}
	return reply{}, notFound()
}

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{{.Base}}/docs/style.css">
<title>{{.Title}}</title>
</head>
<body class="page">
<main>
<h1>{{.Title}}</h1>
<p><code>{{.Slug}}</code> · {{.Status}} {{.Text}}</p>
<p>{{.Help}}</p>
<p><a href="{{.Base}}/docs">The API</a> · <a href="{{.Base}}/docs#problems">All problems</a></p>
</main>
</body>
</html>
`))

// Doctor examines the relay. Its error is doctor.ErrBusy, or that of ctx.
type Doctor interface {
	Examine(ctx context.Context) (doctor.Report, error)
}

// examine implements GET /v1/doctor.
func (a *API) examine(ctx context.Context, _ caller) (reply, error) {
	r, err := a.c.Doctor.Examine(ctx)
	switch {
	case errors.Is(err, doctor.ErrBusy):
		return reply{}, &problem{kind: kindTooMany, detail: "Another examination is under way.",
			retryAfter: 10 * time.Second}
	case err != nil:
		return reply{}, err
	}
	return reply{body: r}, nil
}

// getEncryptionKeys implements GET /v1/encryption-keys.
func (a *API) getEncryptionKeys(_ context.Context, _ caller) (reply, error) {
	s := a.c.Encryption()
	if s.CheckedAt.IsZero() {
		return reply{}, &problem{kind: kindBusy, detail: "The secrets in the store were not counted yet.",
			retryAfter: 5 * time.Second}
	}
	id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	body := EncryptionKeys{CheckedAt: s.CheckedAt, Writing: id(s.Writing), Through: s.Through(), Left: s.Left}
	body.Keys = each.Of(s.Keys, func(k store.KeyUse) EncryptionKey {
		return EncryptionKey{Id: id(k.ID), Secrets: k.Secrets, Use: s.Use(k)}
	})
	return reply{body: body}, nil
}
