package audatex

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/audatex-relay/relay/internal/relay"
)

// maxDepth bounds how deep an order may be nested. encoding/json gives up at 10,000 levels: an
// event with an order just below that could no longer be put in a list or a page, and many readers
// give up far earlier.
const maxDepth = 200

// Order reads one parts order. The vendor returns an array, whose only element is taken byte for
// byte. The outcome is NotFound if the vendor has no such order or the array is empty. id must be a
// uuid; it is sent in lower case.
//
// begin, if not nil, is called when the budget allows the call and right before anything is sent,
// which may be much later. It returns the context of the call itself. If it fails, nothing is sent
// and its error is returned.
func (c *Client) Order(
	ctx context.Context, token relay.Secret, id string, begin func() (context.Context, error),
) (Order, error) {
	id, ok := canonicalUUID(id)
	if !ok {
		return Order{}, &Error{Operation: OpOrder, Outcome: NotFound, err: errors.New("the order's id is no uuid")}
	}
	var before func(context.Context) (context.Context, error)
	if begin != nil {
		before = func(context.Context) (context.Context, error) { return begin() }
	}
	a, err := c.do(ctx, call{
		op: OpOrder, method: http.MethodGet, path: "/partsorders/" + id, token: token,
		limit: int64(c.maxOrder()), http: c.plain,
	}, before)
	if err != nil {
		return Order{}, err
	}
	raw, err := extractOrder(a.body, id)
	if err != nil {
		return Order{}, a.malformed(OpOrder, err)
	}
	if raw == nil {
		return Order{}, &Error{
			Operation: OpOrder, Outcome: NotFound, Status: a.status, CorrelationID: a.correlationID,
			err: errors.New("the answer carries no order"),
		}
	}
	return Order{ID: id, JSON: raw, CorrelationID: a.correlationID, ReadAt: a.at}, nil
}

// extractOrder returns the order with the given lower-case uuid from the vendor's array, or nil if
// that is empty. An element without an id is accepted if it is the only one. An object instead of
// an array is accepted only if it has the id, because it may as well be the description of an
// error.
func extractOrder(body []byte, id string) (json.RawMessage, error) {
	body = trimJSON(body)
	if len(body) == 0 || bytes.Equal(body, []byte("null")) {
		return nil, nil
	}
	if !utf8.Valid(body) {
		return nil, errors.New("order is not UTF-8")
	}
	if deeperThan(body, maxDepth) {
		return nil, fmt.Errorf("order is nested more than %d levels deep", maxDepth)
	}
	elements, isArray := []json.RawMessage{body}, body[0] == '['
	if isArray {
		elements = nil
		if err := json.Unmarshal(body, &elements); err != nil {
			return nil, errors.New("order is not JSON")
		}
		if len(elements) == 0 {
			return nil, nil
		}
	}
	var named int
	for _, raw := range elements {
		raw = trimSpace(raw)
		if len(raw) == 0 || raw[0] != '{' {
			continue
		}
		var o struct{ PartsOrderID json.RawMessage }
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, errors.New("order is not JSON")
		}
		name := text(o.PartsOrderID)
		if name == "" {
			if isArray && len(elements) == 1 {
				return raw, nil
			}
			continue
		}
		named++
		if got, ok := canonicalUUID(name); ok && got == id {
			return raw, nil
		}
	}
	if named == 0 {
		return nil, errors.New("the answer holds no order object")
	}
	return nil, fmt.Errorf("the answer holds %d order(s), none of which is the one asked for", named)
}

// deeperThan reports whether the arrays and objects of b are nested more than most levels deep.
func deeperThan(b []byte, most int) bool {
	depth := 0
	for _, c := range structure(b) {
		switch c {
		case '{', '[':
			if depth++; depth > most {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// canonicalUUID parses a uuid in any form that .NET writes (with braces, without dashes, in upper
// case), and returns the form used in the relay: lower case with dashes. The nil uuid is not
// accepted.
func canonicalUUID(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 2 && s[0] == '{' && s[len(s)-1] == '}' {
		s = s[1 : len(s)-1]
	}
	if len(s) != 36 && len(s) != 32 {
		return "", false
	}
	id, err := uuid.Parse(s)
	if err != nil || id == uuid.Nil {
		return "", false
	}
	return id.String(), true
}
