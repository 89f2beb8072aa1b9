package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// validate holds a request against the contract before its handler sees it.
func (a *API) validate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		op := exchangeOf(r).op
		err := op.checkParameters(r)
		if err == nil {
			err = op.checkBody(w, r)
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// checkParameters checks path, query and headers. Query parameters that the contract does not know are refused by name.
func (op operation) checkParameters(r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return kindParameter.problem("The query cannot be read.")
	}
	var errs []FieldError
	for name, values := range query {
		known := slices.ContainsFunc(op.parameters, func(p parameter) bool { return p.in == "query" && p.name == name })
		if !known {
			errs = append(errs, FieldError{Parameter: name, Detail: "there is no such parameter"})
		} else if len(values) > 1 {
			errs = append(errs, FieldError{Parameter: name, Detail: "may be given once; several values are divided by commas"})
		}
	}
	slices.SortFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Parameter, b.Parameter) })
	for _, p := range op.parameters {
		var values []string
		switch p.in {
		case "query":
			if values = query[p.name]; len(values) > 1 { // told above
				continue
			}
		case "header":
			values = r.Header.Values(p.name)
		case "path":
			value, err := url.PathUnescape(chi.URLParam(r, p.name))
			if err != nil {
				return badParameter(p.name, "cannot be read")
			}
			values = []string{value}
		}
		if len(values) == 0 {
			if p.required {
				errs = append(errs, FieldError{Parameter: p.name, Detail: "is missing"})
			}
			continue
		}
		value, ok := p.value(strings.Join(values, ","))
		if !ok {
			errs = append(errs, FieldError{Parameter: p.name, Detail: "is not " + article(p.typ)})
			continue
		}
		for _, e := range fieldErrors(p.schema.Validate(value)) {
			errs = append(errs, FieldError{Parameter: p.name, Detail: e.Detail})
		}
	}
	if len(errs) > 0 {
		return &problem{kind: kindParameter, errors: errs}
	}
	return nil
}

// value reads a parameter's text as its type says.
func (p parameter) value(text string) (any, bool) {
	if !p.array {
		return scalar(p.typ, text)
	}
	items := []any{}
	for part := range strings.SplitSeq(text, ",") {
		v, ok := scalar(p.typ, part)
		if !ok {
			return nil, false
		}
		items = append(items, v)
	}
	return items, true
}

func scalar(typ, text string) (any, bool) {
	switch typ {
	case "integer":
		n, err := strconv.Atoi(text)
		return n, err == nil
	case "number":
		n, err := strconv.ParseFloat(text, 64)
		return n, err == nil
	case "boolean":
		return text == "true", text == "true" || text == "false"
	}
	return text, true
}

// checkBody reads the body, checks it, and puts it back for the handler.
func (op operation) checkBody(w http.ResponseWriter, r *http.Request) error {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &problem{kind: kindTooLarge}
	}
	if err != nil {
		return &problem{kind: kindMalformed, detail: "The body did not come whole.", cause: err}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else it would end a request that waits
	if op.bodies == nil {
		return nil
	}
	if len(raw) == 0 {
		if op.needsBody {
			return kindMalformed.problem("The body is missing.")
		}
		r.Body = io.NopCloser(strings.NewReader("{}"))
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	schema := op.bodies[mediaType]
	if charset := params["charset"]; err != nil || schema == nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return &problem{kind: kindMediaType}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return kindMediaType.problem("Content-Encoding is not taken here.")
	}
	value, err := readJSON(raw)
	if err != nil {
		return err
	}
	if errs := fieldErrors(schema.Validate(value)); len(errs) > 0 {
		return invalid(errs...)
	}
	if raw, err = json.Marshal(value); err != nil { // as it was read, not as it came: see readJSON
		return fmt.Errorf("write a body that was found valid: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	return nil
}

// bodyOf reads the body that validate has checked.
func bodyOf[T any](r *http.Request) (T, error) {
	var v T
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("read a body that was found valid: %w", err)
	}
	return v, nil
}

// fieldErrors lists what a schema found, without repeating any value: it may be a secret.
func fieldErrors(err error) []FieldError {
	if err == nil {
		return nil
	}
	v, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []FieldError{{Detail: "cannot be checked"}}
	}
	var errs []FieldError
	collect(v, &errs)
	slices.SortFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	return errs[:min(len(errs), 20)]
}

func collect(v *jsonschema.ValidationError, errs *[]FieldError) {
	pointer := ""
	for _, token := range v.InstanceLocation {
		pointer += "/" + escape(token)
	}
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			*errs = append(*errs, at(pointer+"/"+escape(name), "there is no such member"))
		}
	case *kind.Required:
		for _, name := range k.Missing {
			*errs = append(*errs, at(pointer+"/"+escape(name), "is missing"))
		}
	default:
		if len(v.Causes) == 0 {
			*errs = append(*errs, at(pointer, "%s", describe(v.ErrorKind)))
		}
	}
	for _, cause := range v.Causes {
		collect(cause, errs)
	}
}

// describe says what a value should have been, never what it was.
func describe(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		wants := make([]string, len(k.Want))
		for i, want := range k.Want {
			wants[i] = article(want)
		}
		return "must be " + strings.Join(wants, " or ")
	case *kind.Enum:
		wants := make([]string, len(k.Want))
		for i, want := range k.Want {
			wants[i] = fmt.Sprint(want)
		}
		return "must be one of " + strings.Join(wants, ", ")
	case *kind.Pattern:
		return "must match " + k.Want
	case *kind.Format:
		return "must be a " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("may have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("may have at most %d items", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("may have at most %d members", k.Want)
	case *kind.UniqueItems:
		return "has the same item twice"
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "may be at most " + number(k.Want)
	}
	return "is not as the contract says"
}

func number(r *big.Rat) string {
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func article(typ string) string {
	switch typ {
	case "integer", "array", "object":
		return "an " + typ
	case "null":
		return typ
	}
	return "a " + typ
}
