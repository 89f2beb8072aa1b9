package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// session makes requests with one token.
type session struct {
	f     *fixture
	token string
}

func (f *fixture) as(token string) session { return session{f, token} }
func (f *fixture) admin() session          { return session{f, adminToken} }

// client creates a client with sites ("*" for all) and returns a session with a key of a role.
func (f *fixture) client(id string, role relay.Role, sites ...string) session {
	f.t.Helper()
	settings := map[string]any{"sites": append([]string{}, sites...)}
	if len(sites) == 1 && sites[0] == "*" {
		settings = map[string]any{"allSites": true}
	}
	f.admin().put("/v1/clients/"+id, settings).want(201)
	return f.key(id, role)
}

func (f *fixture) key(client string, role relay.Role) session {
	f.t.Helper()
	var created KeyCreated
	f.admin().post("/v1/clients/"+client+"/keys", map[string]any{"role": role}).want(201).into(&created)
	return f.as(created.Key)
}

type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// do sends a request. A body that is no string is sent as JSON. Headers come in pairs.
func (s session) do(method, path string, body any, headers ...string) answer {
	s.f.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			s.f.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(s.f.t.Context(), method, s.f.base+path, reader)
	if err != nil {
		s.f.t.Fatal(err)
	}
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.f.http.Do(r)
	if err != nil {
		s.f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{s.f.t, method + " " + path, resp.StatusCode, resp.Header, raw}
}

func (s session) get(path string, headers ...string) answer {
	s.f.t.Helper()
	return s.do("GET", path, nil, headers...)
}
func (s session) put(path string, body any, headers ...string) answer {
	s.f.t.Helper()
	return s.do("PUT", path, body, headers...)
}
func (s session) post(path string, body any, headers ...string) answer {
	s.f.t.Helper()
	return s.do("POST", path, body, headers...)
}
func (s session) patch(path string, body any, headers ...string) answer {
	s.f.t.Helper()
	return s.do("PATCH", path, body, append([]string{"Content-Type", "application/merge-patch+json"}, headers...)...)
}
func (s session) delete(path string, headers ...string) answer {
	s.f.t.Helper()
	return s.do("DELETE", path, nil, headers...)
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: got %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

func (a answer) into(v any) answer {
	a.t.Helper()
	reflect.ValueOf(v).Elem().SetZero() // what a response before left there must not show, nor be overwritten
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	return a
}

// problem wants a problem of a kind, with errors at exactly these places (pointers, or names of
// parameters).
func (a answer) problem(slug string, places ...string) Problem {
	a.t.Helper()
	var p Problem
	a.into(&p)
	if p.Type != publicURL+"/problems/"+slug || p.Status != a.status || p.RequestId != a.header.Get("X-Request-Id") {
		a.t.Fatalf("%s: got %d %s, want %s", a.what, a.status, a.body, slug)
	}
	var got []string
	for _, e := range p.Errors {
		got = append(got, e.Pointer+e.Parameter)
	}
	if strings.Join(got, " ") != strings.Join(places, " ") {
		a.t.Fatalf("%s: errors at %q, want %q: %s", a.what, got, places, a.body)
	}
	return p
}
