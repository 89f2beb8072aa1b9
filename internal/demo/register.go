package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// demoID is the id of the demo's client and of its callback.
const demoID = "demo"

// apiKey is what the API returns when a key is made.
type apiKey struct{ ID, Key string }

func (d *demo) registerClient(ctx context.Context) (apiKey, error) {
	names := each.Of(d.sites, func(s site) string { return s.name })
	err := d.admin.do(ctx, http.MethodPut, "/v1/clients/"+demoID,
		map[string]any{"description": "The demo", "sites": names}, nil)
	if err != nil {
		return apiKey{}, err
	}
	var key apiKey
	return key, d.admin.do(ctx, http.MethodPost, "/v1/clients/"+demoID+"/keys", map[string]any{"role": "write"}, &key)
}

// registerCallback returns the secret to verify with. It is registered with the client's own key,
// as a business system does it.
func (d *demo) registerCallback(ctx context.Context, target string) (string, error) {
	var created struct{ Secret string }
	err := d.client.do(ctx, http.MethodPut, "/v1/callbacks/"+demoID, map[string]any{"url": target}, &created)
	if p, ok := errors.AsType[*problem](err); ok && p.Status < 500 && d.config.Callback != "" {
		return "", &CallbackError{p.fields()}
	}
	return created.Secret, err
}

// registerConnections gives every site's consent to the relay and waits until the relay reads them:
// before that the vendor keeps no notifications for us.
func (d *demo) registerConnections(ctx context.Context) error {
	for _, s := range d.sites {
		grant, err := d.vendor.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{s.vendor}})
		if err != nil {
			return err
		}
		settings := map[string]any{"level": "site", "site": s.name, "refreshToken": grant.RefreshToken}
		if err := d.admin.do(ctx, http.MethodPut, "/v1/connections/"+s.name, settings, nil); err != nil {
			return err
		}
	}
	for _, s := range d.sites {
		for {
			var c struct {
				State, LastError string
				LastPollAt       time.Time
			}
			if err := d.admin.do(ctx, http.MethodGet, "/v1/connections/"+s.name, nil, &c); err != nil {
				return err
			}
			if c.State == "active" && !c.LastPollAt.IsZero() {
				break
			}
			if !backoff.Sleep(ctx, 50*time.Millisecond) {
				return fmt.Errorf("connection %s is %s (%s), not active: %w", s.name, c.State, c.LastError, ctx.Err())
			}
		}
	}
	return nil
}

// api calls the relay's HTTP API with one token, as any program would.
type api struct {
	base, token string
	calls       *http.Client
}

// problem is a response of the API other than success (RFC 9457).
type problem struct {
	Title, Detail string
	Status        int
	Errors        []struct{ Pointer, Parameter, Detail string }
}

func (p *problem) Error() string {
	said := p.Title
	if p.Detail != "" {
		said += ": " + p.Detail
	}
	if len(p.Errors) > 0 {
		said += ": " + p.fields()
	}
	return said
}

// fields is what is wrong, field by field; the whole problem when it is about none.
func (p *problem) fields() string {
	var wrong []string
	for _, e := range p.Errors {
		wrong = append(wrong, e.Detail)
	}
	if len(wrong) == 0 {
		return strings.TrimSuffix(p.Title+": "+p.Detail, ": ")
	}
	return strings.Join(wrong, "; ")
}

// do sends one request, in as JSON, and reads the response into out. A response other than 2xx is a
// *problem.
func (a api) do(ctx context.Context, method, path string, in, out any) error {
	body := io.Reader(http.NoBody)
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := a.calls.Do(r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if answer.StatusCode/100 != 2 {
		p := &problem{Status: answer.StatusCode}
		if json.Unmarshal(raw, p) != nil || p.Title == "" {
			p.Title = answer.Status
		}
		return fmt.Errorf("%s %s: %w", method, path, p)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}
