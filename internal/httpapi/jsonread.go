package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep a body may be nested; nothing in the contract needs more than four.
const maxDepth = 32

// readJSON reads one JSON value more strictly than encoding/json does: no repeated members (two readers could take different ones),
// no deep nesting, no bytes that are not UTF-8, nothing after the value. Numbers keep their digits.
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
