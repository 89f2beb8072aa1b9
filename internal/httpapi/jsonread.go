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

// maxDepth bounds how deep a body may be nested; nothing in the contract needs more than four.
const maxDepth = 32

// readJSON reads one JSON value more strictly than encoding/json does: no repeated members (two readers could take different ones),
// no deep nesting, no bytes that are not UTF-8, nothing after the value. Whole numbers are written as such, whatever they came as: to
// the contract 1.0 and 1e1 are integers, to encoding/json they are not.
func readJSON(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, &problem{kind: kindMalformed, detail: "The body is not UTF-8."}
	}
	r := reader{d: json.NewDecoder(bytes.NewReader(raw))}
	r.d.UseNumber()
	v, err := r.value("", 0)
	if err != nil {
		return nil, err
	}
	if _, err := r.d.Token(); !errors.Is(err, io.EOF) {
		return nil, r.malformed("", "something stands after the value")
	}
	return v, nil
}

type reader struct{ d *json.Decoder }

func (r reader) malformed(pointer, what string) error {
	return &problem{
		kind: kindMalformed, errors: []FieldError{{Pointer: pointer, Detail: what + " (at byte " + strconv.FormatInt(r.d.InputOffset(), 10) + ")"}},
	}
}

// token reads the next token. The decoder's own words are not passed on: they may quote the body.
func (r reader) token(pointer string) (json.Token, error) {
	t, err := r.d.Token()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, r.malformed(pointer, "the body ends too early")
	case err != nil:
		return nil, r.malformed(pointer, "this is not JSON")
	}
	return t, nil
}

func (r reader) value(pointer string, depth int) (any, error) {
	t, err := r.token(pointer)
	if err != nil {
		return nil, err
	}
	if n, ok := t.(json.Number); ok {
		return r.number(pointer, n)
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, r.malformed(pointer, "nested deeper than "+strconv.Itoa(maxDepth)+" levels")
	}
	if open == '[' {
		return r.array(pointer, depth)
	}
	return r.object(pointer, depth)
}

// maxWhole is the largest number up to which a float64 holds every whole number.
const maxWhole = 1 << 53

// number takes what a float64 can hold, as RFC 8259 advises (section 6): a number with a million digits or a huge exponent would cost
// those who calculate with it as much.
func (r reader) number(pointer string, n json.Number) (any, error) {
	f, err := n.Float64()
	if err != nil {
		return nil, r.malformed(pointer, "the number is too large")
	}
	if f == math.Trunc(f) && math.Abs(f) <= maxWhole {
		return json.Number(strconv.FormatInt(int64(f), 10)), nil
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

func (r reader) array(pointer string, depth int) (any, error) {
	items := []any{}
	for r.d.More() {
		v, err := r.value(pointer+"/"+strconv.Itoa(len(items)), depth+1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	_, err := r.token(pointer)
	return items, err
}

func (r reader) object(pointer string, depth int) (any, error) {
	members := map[string]any{}
	for r.d.More() {
		t, err := r.token(pointer)
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder takes nothing else here
		inside := pointer + "/" + escape(name)
		if _, there := members[name]; there {
			return nil, r.malformed(inside, "the member stands here twice")
		}
		if members[name], err = r.value(inside, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := r.token(pointer)
	return members, err
}
