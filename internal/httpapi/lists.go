package httpapi

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/store"
)

const defaultLimit = 50

// token makes an opaque cursor. The kind keeps the cursor of one list from being used with another.
func token(kind byte, fields ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(kind) + strings.Join(fields, ",")))
}

// readToken reads what token made.
func readToken(kind byte, cursor string, fields int) ([]string, error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil && len(b) > 0 && b[0] == kind {
		if parts := strings.Split(string(b[1:]), ","); len(parts) == fields {
			return parts, nil
		}
	}
	return nil, badParameter("after", "is not a cursor of this list")
}

// position makes a cursor of positions in a log; readPosition reads it.
func position(kind byte, numbers ...uint64) string {
	fields := make([]string, len(numbers))
	for i, n := range numbers {
		fields[i] = strconv.FormatUint(n, 36)
	}
	return token(kind, fields...)
}

func readPosition(kind byte, cursor string, count int) ([]uint64, error) {
	fields, err := readToken(kind, cursor, count)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint64, count)
	for i, field := range fields {
		if numbers[i], err = strconv.ParseUint(field, 36, 64); err != nil {
			return nil, badParameter("after", "is not a cursor of this list")
		}
	}
	return numbers, nil
}

// page cuts one page out of entries, in the order of their keys.
func page[T any](entries []store.Entry[T], after string, limit int) (items []store.Entry[T], next string, err error) {
	slices.SortFunc(entries, func(a, b store.Entry[T]) int { return strings.Compare(a.Key, b.Key) })
	if after != "" {
		last, err := readToken('k', after, 1)
		if err != nil {
			return nil, "", err
		}
		i, found := slices.BinarySearchFunc(entries, last[0], func(e store.Entry[T], key string) int { return strings.Compare(e.Key, key) })
		if found {
			i++
		}
		entries = entries[i:]
	}
	if limit == 0 {
		limit = defaultLimit
	}
	if len(entries) > limit {
		entries = entries[:limit]
		next = token('k', entries[limit-1].Key)
	}
	return entries, next, nil
}

// keep answers the entries that pass.
func keep[T any](entries []store.Entry[T], pass func(T) bool) []store.Entry[T] {
	return slices.DeleteFunc(entries, func(e store.Entry[T]) bool { return !pass(e.Value) })
}

// valuesOf answers the documents of entries.
func valuesOf[T any](entries []store.Entry[T]) []T {
	all := make([]T, 0, len(entries))
	for _, e := range entries {
		all = append(all, e.Value)
	}
	return all
}

// views maps entries to what is answered.
func views[T, V any](entries []store.Entry[T], view func(T) V) []V {
	all := make([]V, 0, len(entries))
	for _, e := range entries {
		all = append(all, view(e.Value))
	}
	return all
}
