package httpapi

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-openapi/jsonpointer"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/audatex-relay/relay/internal/each"
)

// The limits of a problem, so that a response cannot be much larger than its request.
const (
	maxErrors  = 100
	maxPointer = 256 // bytes
	maxToken   = 64  // bytes of one name in a pointer, or of any other repeated part of a request
)

// fieldErrors returns a schema's findings without any value, because values may be secrets.
func (c *contract) fieldErrors(err error) []FieldError {
	if err == nil {
		return nil
	}
	v, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []FieldError{{Detail: "cannot be checked"}}
	}
	var errs []FieldError
	c.collect(v, &errs)
	slices.SortStableFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
	return errs
}

func (c *contract) collect(v *jsonschema.ValidationError, errs *[]FieldError) {
	place := pointerTo(v.InstanceLocation...)
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			*errs = append(*errs, at(place+pointerTo(name), "there is no such member"))
		}
	case *kind.Required:
		for _, name := range k.Missing {
			*errs = append(*errs, at(place+pointerTo(name), "is missing"))
		}
	default:
		if len(v.Causes) == 0 {
			*errs = append(*errs, at(place, "%s", c.describe(v.ErrorKind)))
		}
	}
	for _, cause := range v.Causes {
		c.collect(cause, errs)
	}
}

// describe describes what a value should be, never what it was.
func (c *contract) describe(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be " + strings.Join(each.Of(k.Want, article), " or ")
	case *kind.Enum:
		wants := each.Of(k.Want, func(want any) string { return fmt.Sprint(want) })
		return "must be one of " + strings.Join(wants, ", ")
	case *kind.Pattern:
		return "must be " + c.patterns[k.Want]
	case *kind.Format:
		if k.Want == "date-time" {
			return "must be " + aTime
		}
		return "must be a " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %s", count(k.Want, "character"))
	case *kind.MaxLength:
		return fmt.Sprintf("may have at most %s", count(k.Want, "character"))
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %s", count(k.Want, "item"))
	case *kind.MaxItems:
		return fmt.Sprintf("may have at most %s", count(k.Want, "item"))
	case *kind.MaxProperties:
		return fmt.Sprintf("may have at most %s", count(k.Want, "member"))
	case *kind.UniqueItems:
		return "has the same item twice"
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "may be at most " + number(k.Want)
	}
	return "is not as the contract says"
}

// aTime is the description of an RFC 3339 time in messages.
const aTime = "a time with its zone, such as 2026-01-15T09:38:44Z or 2026-01-15T10:38:44+01:00"

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
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

// pointerTo returns a JSON Pointer. Parts that are too long are cut and end with "…".
func pointerTo(path ...string) string {
	var b strings.Builder
	for _, token := range path {
		if b.Len() > maxPointer {
			b.WriteString("/…")
			break
		}
		b.WriteByte('/')
		b.WriteString(jsonpointer.Escape(cut(token)))
	}
	return b.String()
}

// cut shortens a repeated part of a request.
func cut(text string) string {
	if len(text) <= maxToken {
		return text
	}
	end := maxToken
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// capped returns the first errors, and the number of the others.
func capped(errs []FieldError) []FieldError {
	if len(errs) <= maxErrors {
		return errs
	}
	more := FieldError{Detail: fmt.Sprintf("and %d more", len(errs)-maxErrors)}
	return append(slices.Clone(errs[:maxErrors]), more)
}
