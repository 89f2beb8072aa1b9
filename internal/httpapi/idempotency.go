package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// A request that makes something may have an Idempotency-Key. It can then be sent again until it is
// answered, and makes one thing only. An operation supports that if the contract names the header.
//
//  1. The request is stored with a seed, under the condition that there is none with this key. Of
//     several at the same time, on any replicas, one is stored; the others get 409.
//  2. The operation runs. It makes its ids and secrets from the seed (maker).
//  3. The response is stored, sealed. From then on a repetition gets this response.
//
// After a problem by which nothing was made, the key is free again: the request may be corrected
// and sent again. If it is unknown whether something was made, or the replica dies between 2 and 3,
// the next repetition runs the operation again with the same seed, and the operation finds what it
// has made by its id.

const idempotencyHeader = "Idempotency-Key"

const (
	// runningFor is how long a request is left to the replica that runs it. It is longer than all
	// waits of an operation together.
	runningFor = 30 * time.Second
	// maxStoredAnswer is the largest stored response, in bytes. For a larger one the operation is
	// run again.
	maxStoredAnswer = 256 << 10
)

// room is a number of remembered requests of one caller, and their bytes.
type room struct{ count, bytes int }

// newRemembered returns empty counts with the limits that the contract names.
func newRemembered() *remembered {
	return &remembered{
		// an operator makes links for thousands of connections
		ofClient: room{1000, 16 << 20}, ofAdmin: room{20_000, 64 << 20},
		all: map[string]room{},
	}
}

// idempotencyKey returns the key of a request whose operation supports one, or "". It may be in
// quotes, as in the draft of the header.
func (x *exchange) idempotencyKey(r *http.Request) string {
	if !x.op.once {
		return ""
	}
	key := strings.TrimSpace(r.Header.Get(idempotencyHeader))
	if len(key) > 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	return key
}

// account identifies whose keys are shared: all keys of a client share them, because they may read
// and change the same things; each administrator has its own.
func (c caller) account() string {
	if c.isAdmin() {
		return "admin " + c.admin
	}
	return "client " + c.client.ID + " " + c.client.Generation
}

func hashed(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fingerprint identifies a request by its operation, path, query and body as it was parsed. It
// leaves the body to be read again.
func fingerprint(r *http.Request) ([]byte, error) {
	var raw []byte
	if r.Body != nil {
		var err error
		if raw, err = io.ReadAll(r.Body); err != nil {
			return nil, fmt.Errorf("read a body that was found valid: %w", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
	}
	sum := sha256.Sum256([]byte(hashed(r.Method, r.URL.EscapedPath(), r.URL.Query().Encode(), string(raw))))
	return sum[:], nil
}

// once runs a request with an Idempotency-Key, unless it has been answered already.
func (a *API) once(
	ctx context.Context, r *http.Request, c caller, key string, run func() (response, error),
) (response, error) {
	x := exchangeOf(r.Context())
	print, err := fingerprint(r)
	if err != nil {
		return response{}, err
	}
	key = hashed(c.account(), key)
	request, revision, err := a.claim(ctx, c, key, print)
	if err != nil {
		return response{}, err
	}
	if request.Answer != nil {
		return response{*request.Answer, true}, nil
	}
	x.maker = maker{request.Seed}
	answer, err := run()
	a.settle(ctx, key, revision, request, answer, err)
	return answer, err
}

// claim stores that the request runs here, or returns it with its stored response.
func (a *API) claim(ctx context.Context, c caller, key string, print []byte) (store.IdempotentRequest, uint64, error) {
	select {
	case <-a.requests.Ready():
	default:
		return store.IdempotentRequest{}, 0, starting()
	}
	full := a.remembered.full(c)
	for try := range tries {
		rest(ctx, try)
		fresh := store.IdempotentRequest{
			Caller: hashed(c.account()), RunningUntil: time.Now().Add(runningFor).UTC(),
			RequestSecrets: store.RequestSecrets{Fingerprint: print, Seed: newMaker().seed},
		}
		if !full {
			revision, err := a.c.Store.Requests.Create(ctx, key, fresh)
			if !errors.Is(err, store.ErrConflict) {
				return fresh, revision, err
			}
		}
		found, revision, err := a.c.Store.Requests.GetAtLeader(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound) && full:
			return fresh, 0, &problem{
				kind: kindTooMany, retryAfter: time.Hour,
				detail: "Too many requests with an Idempotency-Key came within 24 hours.",
			}
		case errors.Is(err, store.ErrNotFound):
			continue // it has just been removed
		case errors.Is(err, store.ErrSealed):
			return fresh, 0, kindKeyReused.problem(
				"What was made with this key can no longer be read, as its encryption key is gone.")
		case err != nil:
			return fresh, 0, err
		case subtle.ConstantTimeCompare(found.Fingerprint, print) != 1:
			return fresh, 0, &problem{kind: kindKeyReused}
		case found.Answer != nil:
			return found, revision, nil
		case time.Now().Before(found.RunningUntil):
			return fresh, 0, &problem{kind: kindKeyInUse, retryAfter: time.Second}
		}
		found.RunningUntil = fresh.RunningUntil // its replica is gone
		if revision, err = a.c.Store.Requests.Update(ctx, key, found, revision); !errors.Is(err, store.ErrConflict) {
			return found, revision, err
		}
	}
	return store.IdempotentRequest{}, 0, &problem{kind: kindKeyInUse, retryAfter: time.Second}
}

// settle stores the result of a request. If that fails, the request can be run again, which makes
// nothing twice.
func (a *API) settle(
	ctx context.Context, key string, revision uint64, request store.IdempotentRequest, answer response, failed error,
) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // even if the caller has gone
	defer cancel()
	var err error
	switch p := asProblem(http.MethodPost, failed); {
	case failed == nil && len(answer.Body) <= maxStoredAnswer:
		request.Answer = &answer.StoredAnswer
		request.Seed, request.RunningUntil = nil, time.Time{}
		_, err = a.c.Store.Requests.Update(ctx, key, request, revision)
	case failed != nil && p.kind.status < http.StatusInternalServerError: // nothing was made
		err = a.c.Store.Requests.Delete(ctx, key, revision)
	default:
		request.RunningUntil = time.Time{}
		_, err = a.c.Store.Requests.Update(ctx, key, request, revision)
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		a.c.Log.Log(ctx, store.Level(err, slog.LevelWarn),
			"what a request with an Idempotency-Key came to cannot be stored; a repetition runs it again", "error", err)
	}
}

// remembered counts the stored requests of each caller.
type remembered struct {
	ofClient, ofAdmin room // the limits

	mu  sync.Mutex
	all map[string]room
}

// changed updates the counts after a stored request has changed.
func (m *remembered) changed(before, now *store.Entry[store.RequestSize]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for sign, e := range map[int]*store.Entry[store.RequestSize]{-1: before, 1: now} {
		if e == nil {
			continue
		}
		r := m.all[e.Value.Caller]
		r.count, r.bytes = r.count+sign, r.bytes+sign*e.Value.Bytes
		if m.all[e.Value.Caller] = r; r.count == 0 {
			delete(m.all, e.Value.Caller)
		}
	}
}

// full reports whether no more requests of a caller are remembered.
func (m *remembered) full(c caller) bool {
	most := m.ofClient
	if c.isAdmin() {
		most = m.ofAdmin
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.all[hashed(c.account())]
	return r.count >= most.count || r.bytes >= most.bytes
}
