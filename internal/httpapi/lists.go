package httpapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/store"
)

const defaultLimit = 50

// token returns an opaque cursor. The kind prevents the cursor of one list from being used with
// another.
func token(kind byte, fields ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(kind) + strings.Join(fields, ",")))
}

// readToken parses a cursor made by token.
func readToken(kind byte, cursor string, fields int) ([]string, error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil && len(b) > 0 && b[0] == kind {
		if parts := strings.Split(string(b[1:]), ","); len(parts) == fields {
			return parts, nil
		}
	}
	return nil, badParameter("after", "is not a cursor of this list")
}

// position returns a cursor of log positions; readPosition parses it. No cursor at all means zeros.
func position(kind byte, numbers ...uint64) string {
	return token(kind, each.Of(numbers, func(n uint64) string { return strconv.FormatUint(n, 36) })...)
}

func readPosition(kind byte, cursor string, count int) ([]uint64, error) {
	numbers := make([]uint64, count)
	if cursor == "" {
		return numbers, nil
	}
	fields, err := readToken(kind, cursor, count)
	if err != nil {
		return nil, err
	}
	for i, field := range fields {
		if numbers[i], err = strconv.ParseUint(field, 36, 64); err != nil {
			return nil, badParameter("after", "is not a cursor of this list")
		}
	}
	return numbers, nil
}

// page returns one page of a group of documents in a copy that pass (nil: all), sorted by key.
func page[T any](
	ctx context.Context, m *store.Mirror[T], group, after string, limit int, pass func(T) bool,
) (items []store.Entry[T], next string, err error) {
	after, err = afterKey(after)
	if err != nil {
		return nil, "", err
	}
	if err := await(ctx, m.Ready()); err != nil {
		return nil, "", err
	}
	limit = cmp.Or(limit, defaultLimit)
	items, more := m.Page(group, after, limit, pass)
	if more {
		next = token('k', items[limit-1].Key)
	}
	return items, next, nil
}

// afterKey parses the cursor of a list sorted by key; "" is its beginning.
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

// await waits until a copy of the store is complete.
func await(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return starting()
	}
}

// starting returns the problem for a request that comes before the copies of the store are
// complete.
func starting() error {
	return &problem{kind: kindBusy, detail: "The relay is starting.", retryAfter: time.Second}
}

// valuesOf returns the documents of entries.
func valuesOf[T any](entries []store.Entry[T]) []T {
	return views(entries, func(v T) T { return v })
}

// views returns the documents of entries as the API shows them.
func views[T, V any](entries []store.Entry[T], view func(T) V) []V {
	return each.Of(entries, func(e store.Entry[T]) V { return view(e.Value) })
}
