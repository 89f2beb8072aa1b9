package relay

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// equalValues reports whether two JSON values mean the same; nil means absent.
func equalValues(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, okX := decodeValue(a)
	y, okY := decodeValue(b)
	return okX && okY && equal(x, y)
}

func decodeValue(raw json.RawMessage) (any, bool) {
	if len(raw) == 0 {
		return nil, true
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	return v, dec.Decode(&v) == nil
}

func equal(a, b any) bool {
	a, b = something(a), something(b)
	switch x := a.(type) {
	case json.Number:
		y, ok := b.(json.Number)
		return ok && equalNumbers(string(x), string(y))
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equal(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return false
		}
		for name, v := range x {
			if !equal(v, y[name]) {
				return false
			}
		}
		for name, v := range y {
			if _, ok := x[name]; !ok && something(v) != nil {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case []any, map[string]any: // not comparable with ==
		return false
	}
	return a == b // strings, booleans, nil
}

// something replaces the vendor's ways of writing nothing by nil.
func something(v any) any {
	if s, ok := v.(string); ok && isNoDate(s) {
		return nil
	}
	return v
}

// isNothing reports whether a value is absent, null or the date that means none.
func isNothing(raw json.RawMessage) bool {
	if len(raw) == 0 || string(raw) == "null" {
		return true
	}
	var s string
	return raw[0] == '"' && len(raw) < 64 && json.Unmarshal(raw, &s) == nil && isNoDate(s)
}

// noDate is .NET's DateTime.MinValue, with any fraction of zeros and any zone.
var noDate = regexp.MustCompile(`^0001-01-01T00:00:00(\.0+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?$`)

func isNoDate(s string) bool { return strings.HasPrefix(s, "0001-") && noDate.MatchString(s) }

// equalNumbers compares two JSON numbers by value. It uses no floating point and never expands an
// exponent, so that 1e999999999 costs no more than 1.
func equalNumbers(a, b string) bool {
	if a == b {
		return true
	}
	x, okX := parseDecimal(a)
	y, okY := parseDecimal(b)
	return okX && okY && x == y
}

// decimal is sign × 0.digits × 10^exponent, with digits neither beginning nor ending in 0; zero has
// no digits.
type decimal struct {
	negative bool
	digits   string
	exponent int64
}

// parseDecimal parses a JSON number. It returns false if the exponent is too large to compare by
// value.
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		d.negative, s = true, rest
	}
	mantissa, exponent := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, exponent = s[:i], s[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	d.exponent = int64(len(whole))
	trimmed := strings.TrimLeft(digits, "0")
	d.exponent -= int64(len(digits) - len(trimmed))
	d.digits = strings.TrimRight(trimmed, "0")
	if d.digits == "" {
		return decimal{}, true // zero, whatever its sign and exponent
	}
	if exponent != "" {
		e, err := strconv.ParseInt(exponent, 10, 64)
		if err != nil || e > math.MaxInt64/2 || e < math.MinInt64/2 {
			return decimal{}, false
		}
		d.exponent += e
	}
	return d, true
}
