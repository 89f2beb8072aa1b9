package httpapi

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
)

// onlyOnce are the headers that may not be repeated: what is in front of the relay could use one
// value, and the relay the other. (The server itself refuses a second Host or Content-Length.)
var onlyOnce = []string{"Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key"}

var (
	// joinedCredentials is a second scheme after a comma, joinedType a second media type: two
	// headers joined to one.
	joinedCredentials = regexp.MustCompile(`,[ \t]*[!#$%&'*+.^_|~0-9A-Za-z-]+[ \t]`)
	joinedType        = regexp.MustCompile(`^[^";]*,`)
	// lostPlus is a time whose zone was sent with a plus, which means a space in a query.
	lostPlus = regexp.MustCompile(`[Tt].* [0-9]{1,2}(:?[0-9]{2})?$`)
)

// checkHeaders refuses requests with repeated headers.
func (a *API) checkHeaders(_ http.ResponseWriter, r *http.Request) error {
	for _, name := range onlyOnce {
		joined := name == "Authorization" && joinedCredentials.MatchString(r.Header.Get(name)) ||
			name == "Content-Type" && joinedType.MatchString(r.Header.Get(name))
		if joined || len(r.Header.Values(name)) > 1 {
			return badParameter(name, "may be given once")
		}
	}
	return nil
}

// checkParameters checks path, query and headers. Unknown query parameters are refused by name.
func (c *contract) checkParameters(op operation, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return kindParameter.problem("The query cannot be read.")
	}
	var errs []FieldError
	for name, values := range query {
		known := slices.ContainsFunc(op.parameters, func(p parameter) bool { return p.in == "query" && p.name == name })
		if !known {
			errs = append(errs, FieldError{Parameter: cut(name), Detail: "there is no such parameter"})
		} else if len(values) > 1 {
			errs = append(errs,
				FieldError{Parameter: name, Detail: "may be given once; separate several values by commas"})
		}
	}
	slices.SortFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Parameter, b.Parameter) })
	for _, p := range op.parameters {
		var values []string
		switch p.in {
		case "query":
			if values = query[p.name]; len(values) > 1 { // reported above
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
		if len(values) > 0 {
			errs = append(errs, c.checkParameter(p, values[0])...)
		} else if p.required {
			errs = append(errs, FieldError{Parameter: p.name, Detail: "is missing"})
		}
	}
	if len(errs) > 0 {
		return &problem{kind: kindParameter, errors: errs}
	}
	return nil
}

func (c *contract) checkParameter(p parameter, text string) (errs []FieldError) {
	refuse := func(detail string) []FieldError { return append(errs, FieldError{Parameter: p.name, Detail: detail}) }
	if most := p.schema.MaxItems; p.array && most != nil && strings.Count(text, ",") >= *most { // before it is split
		return refuse("may have at most " + count(*most, "item"))
	}
	value, ok := p.value(text)
	if !ok {
		return refuse("is not " + article(p.typ))
	}
	found := c.fieldErrors(p.schema.Validate(value))
	if f := p.schema.Format; len(found) > 0 && f != nil && f.Name == "date-time" {
		switch {
		case checkTime(strings.ReplaceAll(text, " ", "+")) == nil:
			return refuse("must be a time; the + before its zone must be written as %2B in a query, or the time in " +
				"UTC with a Z")
		case lostPlus.MatchString(text):
			return refuse("must be a time with its zone, such as 2026-01-15T09:38:44Z or, in a query, " +
				"2026-01-15T10:38:44%2B01:00")
		}
	}
	for _, e := range found {
		errs = refuse(e.Detail)
	}
	return errs
}

// value parses a parameter according to its type.
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
