package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// problemKind is one stable type of problem. Its slug is part of the contract: clients may switch on it.
type problemKind struct {
	slug   string
	status int
	title  string
	help   string // what it means and what to do, for the served page
}

// The kinds of problems.
var (
	kindMalformed    = problemKind{"malformed-json", http.StatusBadRequest, "The body is not usable JSON", "The body must be one JSON value in UTF-8, without repeated members, not nested deeper than 32 levels. errors says where reading stopped."}
	kindParameter    = problemKind{"invalid-parameter", http.StatusBadRequest, "A parameter is not usable", "errors names the parameter in the path, the query or the headers and what is wrong with it. Unknown query parameters are refused."}
	kindUnauthorized = problemKind{"unauthorized", http.StatusUnauthorized, "No valid token or key", "Send Authorization: Bearer with the admin token or an API key that has not expired or been revoked."}
	kindReadOnly     = problemKind{"read-only-key", http.StatusForbidden, "The key may only read", "The key's role is read. Changing callbacks wants a key with the role write."}
	kindNotFound     = problemKind{"not-found", http.StatusNotFound, "Not found", "There is nothing here, or nothing that this key may see. Keys see their client's callbacks, and the events and orders of its sites."}
	kindMethod       = problemKind{"method-not-allowed", http.StatusMethodNotAllowed, "Method not allowed", "The header Allow lists the methods of this address."}
	kindConflict     = problemKind{"conflict", http.StatusConflict, "In conflict with what is stored", "Others change the same thing at the same moment, or what is asked does not fit its state. detail says which; read it again and decide anew."}
	kindInUse        = problemKind{"client-in-use", http.StatusConflict, "The client has callbacks", "Remove the client's callbacks first."}
	kindLimit        = problemKind{"limit-reached", http.StatusConflict, "There may not be more of these", "Remove what is no longer needed."}
	kindUnresolved   = problemKind{"still-unresolved", http.StatusConflict, "It still cannot be resolved", "The notification stays among the unresolved ones. detail says why: what the vendor answered about its order, or what is missing. Retry it once that has changed, or give it up by DELETE."}
	kindAmbiguous    = problemKind{"ambiguous-order", http.StatusConflict, "The order's id exists at more than one site", "Name the site with the query parameter site. detail lists those to choose from."}
	kindOutdated     = problemKind{"cursor-outdated", http.StatusGone, "The cursor is outdated", "What comes next after the cursor is no longer kept (or the log was restored to an earlier time). Begin again with since, and apply an event only if its sequence is above the one stored for its subject."}
	kindPrecondition = problemKind{"precondition-failed", http.StatusPreconditionFailed, "It has changed meanwhile", "If-Match does not name the present version. Read it again, and decide anew."}
	kindTooLarge     = problemKind{"body-too-large", http.StatusRequestEntityTooLarge, "The body is too large", "A body may have 1 MiB."}
	kindMediaType    = problemKind{"unsupported-media-type", http.StatusUnsupportedMediaType, "The body is of a type not taken here", "Send Content-Type: application/json; PATCH also takes application/merge-patch+json."}
	kindInvalid      = problemKind{"invalid-body", http.StatusUnprocessableEntity, "The body says something that cannot be", "errors lists each place by JSON Pointer and what is wrong there. Unknown members are refused by name."}
	kindTooMany      = problemKind{"too-many-requests", http.StatusTooManyRequests, "Too many requests", "Each key may make so many requests a second, and hold so many waiting ones open. Wait as long as Retry-After says."}
	kindInternal     = problemKind{"internal-error", http.StatusInternalServerError, "The relay failed", "It is a fault of the relay. Its log has more under the request id."}
	kindVendor       = problemKind{"vendor-error", http.StatusBadGateway, "The vendor did not answer as it should", "detail has what the vendor said and its correlation id, which its service desk asks for."}
	kindConsent      = problemKind{"consent-required", http.StatusConflict, "The connection needs a new consent", "The vendor no longer takes the connection's tokens. Put a new refresh token."}
	kindStore        = problemKind{"store-unavailable", http.StatusServiceUnavailable, "The store cannot be used now", "It could not be read, or it was not changed; where detail says that it may have been, look first. Wait as long as Retry-After says and repeat."}
	kindBusy         = problemKind{"not-available", http.StatusServiceUnavailable, "Cannot be done now", "The part of the relay that has to do it does not answer, the store takes no writes, or the vendor wants to be left alone for a while. Wait as long as Retry-After says and repeat."}
)

var kinds = []problemKind{
	kindMalformed, kindParameter, kindUnauthorized, kindReadOnly, kindNotFound, kindMethod, kindConflict, kindInUse, kindLimit, kindUnresolved, kindAmbiguous,
	kindOutdated, kindPrecondition, kindTooLarge, kindMediaType, kindInvalid, kindTooMany, kindInternal, kindVendor, kindConsent, kindStore, kindBusy,
}

// problem is an answer that is not what was asked for. Its cause goes to the log, never to the caller.
type problem struct {
	kind       problemKind
	detail     string
	errors     []FieldError
	retryAfter time.Duration
	cause      error
}

// Error says what the log should.
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

// Unwrap gives the cause.
func (p *problem) Unwrap() error { return p.cause }

func (k problemKind) problem(format string, args ...any) *problem {
	return &problem{kind: k, detail: fmt.Sprintf(format, args...)}
}

// notFound is one and the same for what is not there and for what the caller may not see.
func notFound() *problem { return &problem{kind: kindNotFound} }

func badParameter(name, format string, args ...any) *problem {
	return &problem{kind: kindParameter, errors: []FieldError{{Parameter: name, Detail: fmt.Sprintf(format, args...)}}}
}

func invalid(errs ...FieldError) *problem { return &problem{kind: kindInvalid, errors: errs} }

func at(pointer, format string, args ...any) FieldError {
	return FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// asProblem decides what an error is to the caller, who asked by a method.
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
	case method == http.MethodGet && store.InTrouble(err): // a read has no change to speak of
		p.kind, p.detail, p.retryAfter = kindStore, "The store does not answer. Try again.", 5*time.Second
	case errors.Is(err, store.ErrUnclear):
		p.kind, p.detail, p.retryAfter = kindStore, "The store gave no clear answer: the change may have been made.", 5*time.Second
	case errors.Is(err, store.ErrUnavailable):
		p.kind, p.detail, p.retryAfter = kindStore, "Nothing was changed.", 5*time.Second
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.kind, p.retryAfter = kindBusy, 5*time.Second
	}
	return p
}

// fail answers with a problem.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, x := asProblem(r.Method, err), exchangeOf(r)
	x.problem = p
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.retryAfter+time.Second-1)/time.Second)))
	}
	if p.kind.slug == kindUnauthorized.slug {
		w.Header().Set("WWW-Authenticate", `Bearer realm="audatex relay"`)
	}
	body, err := relay.Encode(Problem{
		Type: a.c.PublicURL + "/problems/" + p.kind.slug, Title: p.kind.title, Status: p.kind.status, Detail: p.detail, Errors: p.errors, RequestId: x.id,
	})
	if err != nil { // strings and numbers always encode
		panic(err)
	}
	write(w, p.kind.status, "application/problem+json", body)
}
