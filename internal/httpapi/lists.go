package httpapi

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

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

// page returns one page of a group of the documents in a copy, in the order of their keys, of those that pass (nil: all).
func page[T any](
	ctx context.Context, m *store.Mirror[T], group, after string, limit int, pass func(T) bool,
) (items []store.Entry[T], next string, err error) {
	after, err = afterKey(after)
	if err != nil {
		return nil, "", err
	}
	select {
	case <-m.Ready():
	case <-ctx.Done():
		return nil, "", starting()
	}
	if limit == 0 {
		limit = defaultLimit
	}
	items, more := m.Page(group, after, limit, pass)
	if more {
		next = token('k', items[limit-1].Key)
	}
	return items, next, nil
}

// afterKey reads the cursor of a list that is in the order of keys; "" is its beginning.
func afterKey(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	last, err := readToken('k', cursor, 1)
	if err != nil {
		return "", err
	}
	return last[0], nil
}

// starting says that the copies of what is stored are not complete yet.
func starting() error {
	return &problem{kind: kindBusy, detail: "The relay is starting.", retryAfter: time.Second}
}

// entryKeys returns the keys of entries.
func entryKeys[T any](entries []store.Entry[T]) []string {
	keys := make([]string, len(entries))
	for i, e := range entries {
		keys[i] = e.Key
	}
	return keys
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
