package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// problemKind is one stable type of problem. Its slug is part of the contract: clients may depend
// on it.
type problemKind struct {
	slug   string
	status int
	title  string
	help   string // what it means and what to do, for the served page
}

// The kinds of problems.
var (
	kindMalformed = problemKind{"malformed-json", http.StatusBadRequest, "The request body cannot be read",
		"The body must be one JSON value in UTF-8: no member twice, at most 32 levels deep, at most 10,000 values, " +
			"names of at most 512 bytes, texts of at most 32,768 bytes, numbers of at most 100 characters. errors " +
			"says where " +
			"reading stopped."}
	kindParameter = problemKind{"invalid-parameter", http.StatusBadRequest, "A parameter is not valid",
		"errors names the parameter in the path, the query or the headers and what is wrong with it. Unknown query " +
			"parameters are refused, and so are headers that were sent twice and may be sent once."}
	kindUnauthorized = problemKind{"unauthorized", http.StatusUnauthorized,
		"The token or API key is missing or not valid",
		"Send Authorization: Bearer with the admin token or an API key that has not expired or been revoked."}
	kindReadOnly = problemKind{"read-only-key", http.StatusForbidden, "The API key may only read",
		"The key's role is read. Every change needs a key with the role write or manage."}
	kindRole = problemKind{"role-not-allowed", http.StatusForbidden, "The API key's role does not allow this",
		"Keys are made, listed and removed with the admin token, or with a key of the role manage. Such a key makes " +
			"and " +
			"removes keys of the roles read and write; one of the role manage is the administrator's to make and " +
			"remove."}
	kindNotFound = problemKind{"not-found", http.StatusNotFound, "Not found",
		"There is nothing here, or nothing that this key may see. Keys see their client's callbacks, and the events " +
			"and " +
			"orders of its sites."}
	kindMethod = problemKind{"method-not-allowed", http.StatusMethodNotAllowed, "The method is not allowed here",
		"The header Allow lists the methods of this address."}
	kindConflict = problemKind{"conflict", http.StatusConflict, "The change conflicts with another",
		"Others changed the same thing at the same moment, or the request does not fit its state. detail says which. " +
			"Read " +
			"it again and decide again."}
	kindTaken = problemKind{"id-taken", http.StatusConflict, "The id is already in use",
		"Ids of callbacks are shared by all clients. Choose another id, or let the relay choose one with POST."}
	kindInUse = problemKind{"client-in-use", http.StatusConflict, "The client still has callbacks",
		"Remove the client's callbacks first."}
	kindLimit = problemKind{"limit-reached", http.StatusConflict, "The limit is reached",
		"There may not be more of these. Remove those that are no longer needed."}
	kindKeyReused = problemKind{"idempotency-key-reused", http.StatusUnprocessableEntity,
		"The Idempotency-Key was used for another request",
		"A key belongs to one request for 24 hours: its method, path, query and body. Send the request as it was " +
			"first " +
			"sent, or with a new key."}
	kindKeyInUse = problemKind{"idempotency-key-in-use", http.StatusConflict,
		"The request with this Idempotency-Key is still under way",
		"It has been sent before, and its answer is not there yet. Send it again, with the same key, once " +
			"Retry-After is " +
			"over."}
	kindUnresolved = problemKind{"still-unresolved", http.StatusConflict, "The notification still cannot be resolved",
		"The notification stays among the unresolved ones. detail says why: what the vendor answered about its " +
			"order, or " +
			"what is missing. Retry it once that has changed, or give it up by DELETE."}
	kindAmbiguous = problemKind{"ambiguous-order", http.StatusConflict, "The order exists at more than one site",
		"Name the site with the query parameter site. detail lists those to choose from."}
	kindOutdated = problemKind{"cursor-outdated", http.StatusGone, "The cursor is no longer valid",
		"What comes next after the cursor is no longer kept (or the log was restored to an earlier time). Begin " +
			"again " +
			"with since, and apply an event only if its sequence is above the one stored for its subject."}
	kindPrecondition = problemKind{"precondition-failed", http.StatusPreconditionFailed,
		"It has been changed since it was read",
		"If-Match does not name the present version. Read it again, and decide again."}
	kindTooLarge = problemKind{"body-too-large", http.StatusRequestEntityTooLarge, "The request body is too large",
		"A body may have at most 1 MiB."}
	kindMediaType = problemKind{"unsupported-media-type", http.StatusUnsupportedMediaType,
		"The request body has the wrong type",
		"detail says which type came and which is wanted: Content-Type: application/json; PATCH also takes " +
			"application/merge-patch+json."}
	kindInvalid = problemKind{"invalid-body", http.StatusUnprocessableEntity, "The request body is not valid",
		"errors lists each place by JSON Pointer and what is wrong there. Unknown members are refused by name."}
	kindTooMany = problemKind{"too-many-requests", http.StatusTooManyRequests, "Too many requests",
		"Each key may make a certain number of requests a second, have a few under way at once, send one body at a " +
			"time, and hold a number of waiting requests open; an address may show a certain number of invalid " +
			"tokens. Wait as " +
			"long as Retry-After says."}
	kindInternal = problemKind{"internal-error", http.StatusInternalServerError, "The relay failed",
		"It is a fault of the relay. Its log has more under the request id."}
	kindVendor = problemKind{"vendor-error", http.StatusBadGateway, "The vendor did not answer as expected",
		"detail has what the vendor said and its correlation id, which its service desk asks for."}
	kindConsent = problemKind{"consent-required", http.StatusConflict, "The connection needs a new consent",
		"The vendor no longer accepts the connection's tokens. Make a consent link for it, or put a new refresh token."}
	kindLinksOff = problemKind{"consent-links-off", http.StatusConflict, "No consent links can be made here",
		"Browsers must be able to reach the relay: RELAY_PUBLIC_URL must be set to its public https address. detail " +
			"says " +
			"what is wrong."}
	kindStore = problemKind{"store-unavailable", http.StatusServiceUnavailable, "The store is not available",
		"It could not be read, or it was not changed; where detail says that it may have been, look first. Wait as " +
			"long as " +
			"Retry-After says and repeat."}
	kindBusy = problemKind{"not-available", http.StatusServiceUnavailable, "This cannot be done now",
		"The part of the relay that has to do it does not answer or has too much to do, the store takes no writes, " +
			"or the " +
			"vendor asked to wait. Wait as long as Retry-After says and repeat."}
)

var kinds = []problemKind{
	kindMalformed, kindParameter, kindUnauthorized, kindReadOnly, kindRole, kindNotFound, kindMethod, kindConflict,
	kindTaken, kindInUse, kindLimit, kindKeyReused, kindKeyInUse, kindUnresolved, kindAmbiguous, kindOutdated,
	kindPrecondition, kindTooLarge, kindMediaType, kindInvalid, kindTooMany, kindInternal, kindVendor, kindConsent,
	kindLinksOff, kindStore,
	kindBusy,
}

// problem is an error response. Its cause is logged, and never sent to the caller.
type problem struct {
	kind       problemKind
	detail     string
	errors     []FieldError
	retryAfter time.Duration
	cause      error
}

// Error returns the text for the log.
func (p *problem) Error() string {
	text := p.kind.slug
	if p.detail != "" {
		text += ": " + p.detail
	}
	if p.cause != nil {
		text += ": " + p.cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (p *problem) Unwrap() error { return p.cause }

func (k problemKind) problem(format string, args ...any) *problem {
	return &problem{kind: k, detail: fmt.Sprintf(format, args...)}
}

// notFound is the same problem for what does not exist and for what the caller may not see.
func notFound() *problem { return &problem{kind: kindNotFound} }

func isNotFound(err error) bool {
	p, ok := errors.AsType[*problem](err)
	return ok && p.kind.slug == kindNotFound.slug
}

func badParameter(name, format string, args ...any) *problem {
	return &problem{kind: kindParameter, errors: []FieldError{{Parameter: name, Detail: fmt.Sprintf(format, args...)}}}
}

func invalid(errs ...FieldError) *problem { return &problem{kind: kindInvalid, errors: errs} }

func at(pointer, format string, args ...any) FieldError {
	return FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// asProblem returns the problem for an error of a request with the given method.
func asProblem(method string, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	p := &problem{kind: kindInternal, cause: err}
	switch {
	case errors.Is(err, store.ErrNotFound):
		p.kind = kindNotFound
	case errors.Is(err, store.ErrConflict):
		p.kind, p.detail = kindConflict, "Others changed it at the same moment."
	case errors.Is(err, store.ErrTooLarge):
		p.kind, p.detail = kindTooLarge, "It is too large to be stored."
	case method == http.MethodGet && store.InTrouble(err): // a read changes nothing
		p.kind, p.detail, p.retryAfter = kindStore, "The store does not answer. Try again.", 5*time.Second
	case errors.Is(err, store.ErrUnclear):
		p.kind, p.detail, p.retryAfter = kindStore, "The store gave no clear answer: the change may have been made.",
			5*time.Second
	case errors.Is(err, store.ErrUnavailable):
		p.kind, p.detail, p.retryAfter = kindStore, "Nothing was changed.", 5*time.Second
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.kind, p.retryAfter = kindBusy, 5*time.Second
	}
	return p
}

// fail sends a problem.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, x := asProblem(r.Method, err), exchangeOf(r.Context())
	x.problem = p
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.retryAfter+time.Second-1)/time.Second)))
	}
	if p.kind.slug == kindUnauthorized.slug {
		w.Header().Set("WWW-Authenticate", `Bearer realm="audatex relay"`)
	}
	encode(w, p.kind.status, "application/problem+json", Problem{
		Type: a.c.PublicURL + "/problems/" + p.kind.slug, Title: p.kind.title, Status: p.kind.status,
		Detail: p.detail, Errors: capped(p.errors), RequestId: x.id,
	})
}
