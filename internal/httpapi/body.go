package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 1 << 20

// validate checks a request against the contract before its handler gets it.
func (a *API) validate(w http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r.Context())
	if err := a.contract.checkParameters(x.op, r); err != nil {
		return err
	}
	return a.takeBody(w, r, x)
}

// takeBody reads the body, checks it, and puts it back for the handler. Each key has one body read
// at a time.
func (a *API) takeBody(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if r.Body == nil || r.Body == http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // otherwise it would end a request that waits
		return x.op.setBody(r, nil)
	}
	if r.ContentLength > maxBody {
		return &problem{kind: kindTooLarge}
	}
	if r.ContentLength > 0 { // otherwise there may be no body
		if err := x.op.checkMediaType(r.Header); err != nil {
			return err
		}
	}
	done, err := a.bodies.soon(r.Context(), x.caller.key.ID)
	if err != nil {
		return err
	}
	defer done()
	raw, err := a.readBody(w, r, x.op)
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if x.op.bodies == nil && len(bytes.TrimSpace(raw)) == 0 || len(raw) == 0 {
		return x.op.setBody(r, nil)
	}
	if err := x.op.checkMediaType(r.Header); err != nil {
		return err
	}
	if !enter(r.Context(), a.checks) {
		return r.Context().Err()
	}
	defer func() { <-a.checks }()
	value, err := readJSON(raw)
	if err != nil {
		return err
	}
	schema := a.contract.nothing
	if x.op.bodies != nil {
		schema = x.op.bodies[mediaTypeOf(r.Header)]
	}
	if errs := a.contract.fieldErrors(schema.Validate(value)); len(errs) > 0 {
		return invalid(errs...)
	}
	if raw, err = json.Marshal(value); err != nil { // as it was parsed, not as it came: see readJSON
		return fmt.Errorf("write a body that was found valid: %w", err)
	}
	return x.op.setBody(r, raw)
}

// readBody returns the bytes of the body, or none if nobody looks at it: that of a request that changes nothing. A
// change that takes no body must come with none, or with {}: who sends more expects that it counts.
func (a *API) readBody(w http.ResponseWriter, r *http.Request, op operation) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > largeBody {
		ctx, cancel := context.WithTimeout(r.Context(), turnWait)
		defer cancel()
		if !enter(ctx, a.large) {
			return nil, &problem{kind: kindBusy,
				detail: "Too many large bodies are being read.", retryAfter: time.Second}
		}
		defer func() { <-a.large }()
	}
	body := http.MaxBytesReader(w, r.Body, maxBody)
	var raw []byte
	var err error
	if op.bodies == nil && !op.changes {
		_, err = io.Copy(io.Discard, body)
	} else {
		raw, err = io.ReadAll(body)
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &problem{kind: kindTooLarge}
	}
	if err != nil {
		return nil, &problem{kind: kindMalformed, detail: "The body did not come whole.", cause: err}
	}
	return raw, nil
}

// setBody sets the checked body for the handler. If there is none, and the operation does not need
// one, it is an empty object.
func (op operation) setBody(r *http.Request, raw []byte) error {
	if op.bodies == nil {
		return nil
	}
	if raw == nil {
		if op.needsBody {
			return kindMalformed.problem("The body is missing.")
		}
		raw = []byte("{}")
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	return nil
}

// withBody does an operation that takes a body, which validate has put back as it was found valid.
func withBody[T any](
	a *API, w http.ResponseWriter, r *http.Request,
	operation func(ctx context.Context, c caller, body T) (reply, error),
) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		var body T
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return reply{}, fmt.Errorf("read a body that was found valid: %w", err)
		}
		return operation(ctx, c, body)
	})
}

// checkMediaType returns a problem unless the body has a type that the operation takes. The problem
// lists those types.
func (op operation) checkMediaType(h http.Header) error {
	if op.bodies == nil {
		return nil
	}
	wanted := strings.Join(slices.Sorted(maps.Keys(op.bodies)), " or ")
	came := strings.TrimSpace(h.Get("Content-Type"))
	if came == "" {
		return kindMediaType.problem("The body came without Content-Type; %s is wanted.", wanted)
	}
	if op.bodies[mediaTypeOf(h)] == nil {
		return kindMediaType.problem("Content-Type is %q; %s is wanted.", cut(came), wanted)
	}
	_, parameters, _ := mime.ParseMediaType(came)
	charset := parameters["charset"]
	switch strings.NewReplacer("-", "", "_", "", "'", "").Replace(strings.ToLower(charset)) {
	case "", "utf8", "usascii", "ascii": // the last two are subsets of UTF-8
	default:
		return kindMediaType.problem("The charset of Content-Type is %q; JSON is sent as UTF-8.", cut(charset))
	}
	if encoding := strings.Join(h.Values("Content-Encoding"), ", "); encoding != "" &&
		!strings.EqualFold(encoding, "identity") {
		return kindMediaType.problem("Content-Encoding is %q; the body is wanted as it is, without one.", cut(encoding))
	}
	return nil
}

// mediaTypeOf returns the media type, or "" if it cannot be parsed. Invalid parameters do not
// matter, because JSON has none (RFC 8259, section 11).
func mediaTypeOf(h http.Header) string {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return mediaType
}
