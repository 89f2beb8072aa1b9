package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// The limits of a body, checked while it is read. Each is several times what the contract can use:
// a callback names at most 1,000 sites and 1,000 orders, and the longest text is a refresh token of
// 8,192 characters.
const (
	maxDepth  = 32
	maxValues = 10_000
	maxName   = 512              // bytes of a member's name
	maxText   = 4 * 8192         // bytes of a text
	maxNumber = 100              // bytes of a number
	maxWhole  = float64(1 << 53) // the largest range in which a float64 holds every whole number
)

// readJSON reads one JSON value, and is stricter than encoding/json: no repeated members (two
// readers could use different ones), only UTF-8, nothing after the value, and nothing beyond the
// limits above. Whole numbers are written as integers: for the contract 1.0 and 1e1 are integers,
// for encoding/json they are not.
func readJSON(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, kindMalformed.problem("The body is not UTF-8.")
	}
	r := reader{d: json.NewDecoder(bytes.NewReader(raw))}
	r.d.UseNumber()
	v, err := r.value()
	if err != nil {
		return nil, err
	}
	if _, err := r.d.Token(); !errors.Is(err, io.EOF) {
		return nil, r.malformed("there is more after the end of the value")
	}
	return v, nil
}

// reader reads one document. Its position in the document is only formatted as a pointer for an
// error.
type reader struct {
	d      *json.Decoder
	path   []step
	values int // read so far
}

// step is one level of the path: a member's name, or the index of an item.
type step struct {
	name  string
	index int
	item  bool
}

func (r *reader) malformed(what string) error {
	path := make([]string, len(r.path))
	for i, s := range r.path {
		if path[i] = s.name; s.item {
			path[i] = strconv.Itoa(s.index)
		}
	}
	return &problem{kind: kindMalformed, errors: []FieldError{
		{Pointer: pointerTo(path...), Detail: what + " (at byte " + strconv.FormatInt(r.d.InputOffset(), 10) + ")"},
	}}
}

// token reads the next token. The decoder's own errors are not passed on: they may quote the body.
func (r *reader) token() (json.Token, error) {
	t, err := r.d.Token()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, r.malformed("the body ends too early")
	case err != nil:
		return nil, r.malformed("this is not JSON")
	}
	return t, nil
}

func (r *reader) value() (any, error) {
	if r.values++; r.values > maxValues {
		return nil, r.malformed("the body has more than " + strconv.Itoa(maxValues) + " values")
	}
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return r.number(t)
	case string:
		if len(t) > maxText {
			return nil, r.malformed("the text is longer than " + strconv.Itoa(maxText) + " bytes")
		}
	case json.Delim:
		if len(r.path) == maxDepth {
			return nil, r.malformed("nested deeper than " + strconv.Itoa(maxDepth) + " levels")
		}
		if t == '[' {
			return r.array()
		}
		return r.object()
	}
	return t, nil
}

// number accepts what a float64 can hold, as RFC 8259 advises (section 6): a number with a million
// digits or a huge exponent would be expensive for those who calculate with it.
func (r *reader) number(n json.Number) (any, error) {
	if len(n) > maxNumber {
		return nil, r.malformed("the number has more than " + strconv.Itoa(maxNumber) + " characters")
	}
	f, err := n.Float64()
	if err != nil {
		return nil, r.malformed("the number is too large")
	}
	if f == math.Trunc(f) && math.Abs(f) <= maxWhole {
		return json.Number(strconv.FormatInt(int64(f), 10)), nil
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

func (r *reader) array() (any, error) {
	items, level := []any{}, len(r.path)
	r.path = append(r.path, step{item: true})
	for r.d.More() {
		r.path[level].index = len(items)
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	r.path = r.path[:level]
	_, err := r.token()
	return items, err
}

func (r *reader) object() (any, error) {
	members, level := map[string]any{}, len(r.path)
	for r.d.More() {
		t, err := r.token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder accepts nothing else here
		if len(name) > maxName {
			return nil, r.malformed("a member's name is longer than " + strconv.Itoa(maxName) + " bytes")
		}
		r.path = append(r.path, step{name: name})
		if _, there := members[name]; there {
			return nil, r.malformed("the member is there twice")
		}
		if members[name], err = r.value(); err != nil {
			return nil, err
		}
		r.path = r.path[:level]
	}
	_, err := r.token()
	return members, err
}
