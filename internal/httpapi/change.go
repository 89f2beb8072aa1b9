package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// tries is how often a change is made anew when others change the same document at the same moment, breath how much longer each time it may
// wait before.
const (
	tries  = 16
	breath = 20 * time.Millisecond
)

// rest waits before a try that is not the first, so that those who met do not meet again.
func rest(ctx context.Context, try int) {
	if try == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(time.Duration(min(try, tries)) * breath)):
	}
}

// read reads a document for a try. After the first the leader is asked: any other node may still have the version that was refused.
func read[T any](ctx context.Context, b *store.Bucket[T], key string, try int) (T, uint64, error) {
	if try == 0 {
		return b.Get(ctx, key)
	}
	rest(ctx, try)
	return readAtLeader(ctx, b, key)
}

// readAtLeader reads a document as the bucket's leader has it.
func readAtLeader[T any](ctx context.Context, b *store.Bucket[T], key string) (T, uint64, error) {
	there := b.Current(ctx, []string{key})[0]
	if there.Err == nil && there.Deleted {
		there.Err = fmt.Errorf("read %s: %w", key, store.ErrNotFound)
	}
	return there.Value, there.Revision, there.Err
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 36) + `"` }

// matches reports whether an If-Match header allows a change of the version (RFC 9110, section 13.1.1). An empty one does.
func matches(ifMatch string, revision uint64) bool {
	if ifMatch == "" || strings.TrimSpace(ifMatch) == "*" {
		return true
	}
	for tag := range strings.SplitSeq(ifMatch, ",") {
		if opaque(tag) == opaque(etag(revision)) {
			return true
		}
	}
	return false
}

// opaque is what a tag names a version by. A proxy that compresses answers makes a tag weak or puts the encoding behind it, and a change
// is refused by the store anyway if another came between; so these count as the tag that was given.
func opaque(tag string) string {
	tag = strings.TrimSpace(tag)
	if len(tag) > 2 && (tag[0] == 'W' || tag[0] == 'w') && tag[1] == '/' {
		tag = tag[2:]
	}
	tag = strings.Trim(tag, `"`)
	for _, encoding := range []string{"-gzip", "-br"} {
		tag = strings.TrimSuffix(tag, encoding)
	}
	return tag
}

// change reads a document, changes it and stores it; if others change it at the same moment it does so again, unless the caller
// named the version it wants to change. Edit must refuse what the caller may not see or change. First is what has to be stored before
// the document, as those who watch documents look for it then.
func change[T any](ctx context.Context, b *store.Bucket[T], key, ifMatch string, edit func(T) (T, error), first ...func(T) error) (T, uint64, error) {
	var zero T
	for try := range tries {
		v, revision, err := read(ctx, b, key, try)
		if err != nil {
			return zero, 0, err
		}
		if v, err = edit(v); err != nil {
			return zero, 0, err
		}
		if !matches(ifMatch, revision) {
			if try == 0 { // by what a copy has that may lag: the leader knows
				continue
			}
			return zero, 0, &problem{kind: kindPrecondition}
		}
		for _, do := range first {
			if err := do(v); err != nil {
				return zero, 0, err
			}
		}
		revision, err = b.Update(ctx, key, v, revision)
		if err == nil {
			return v, revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return zero, 0, err
		}
	}
	return zero, 0, fmt.Errorf("change %s: %w", key, store.ErrConflict)
}

// put replaces the document there by edit, or has create store a fresh one if there is none; create returns ErrConflict if there is one by
// then. First is as of change. If edit says that for the caller there is none, the caller learns what it would of an id that is free, until
// nothing else is in the way of making it: then, that the id is taken.
func put[T any](
	ctx context.Context, b *store.Bucket[T], key, ifMatch string, fresh func() (T, error), create func(T) (uint64, error),
	edit func(T) (T, error), first ...func(T) error,
) (v T, revision uint64, created bool, err error) {
	for range tries {
		v, revision, err = change(ctx, b, key, ifMatch, edit, first...)
		taken := isNotFound(err)
		if !taken && !errors.Is(err, store.ErrNotFound) {
			return v, revision, false, err
		}
		if v, err = fresh(); err != nil {
			return v, 0, false, err
		}
		if ifMatch != "" {
			return v, 0, false, &problem{kind: kindPrecondition}
		}
		if taken {
			return v, 0, false, &problem{kind: kindTaken}
		}
		for _, do := range first {
			if err := do(v); err != nil {
				return v, 0, false, err
			}
		}
		if revision, err = create(v); !errors.Is(err, store.ErrConflict) {
			return v, revision, true, err
		}
	}
	return v, 0, false, err
}

// remove deletes a document that passes check, and answers it with its last revision.
func remove[T any](ctx context.Context, b *store.Bucket[T], key, ifMatch string, check func(T) error) (T, uint64, error) {
	var zero T
	for try := range tries {
		v, revision, err := read(ctx, b, key, try)
		if err != nil {
			return zero, 0, err
		}
		if err := check(v); err != nil {
			return zero, 0, err
		}
		if !matches(ifMatch, revision) {
			if try == 0 { // by what a copy has that may lag: the leader knows
				continue
			}
			return zero, 0, &problem{kind: kindPrecondition}
		}
		err = b.Delete(ctx, key, revision)
		if err == nil {
			return v, revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return zero, 0, err
		}
	}
	return zero, 0, fmt.Errorf("remove %s: %w", key, store.ErrConflict)
}

// merge applies a JSON Merge Patch (RFC 7396) to a value and answers the outcome as JSON.
func merge(target any, patch []byte) ([]byte, error) {
	before, err := json.Marshal(target)
	if err != nil {
		return nil, fmt.Errorf("encode what is to be patched: %w", err)
	}
	document, err := readJSON(before)
	if err != nil {
		return nil, err
	}
	changes, err := readJSON(patch)
	if err != nil {
		return nil, err
	}
	return json.Marshal(mergeValue(document, changes))
}

func mergeValue(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for name, value := range changes {
		if value == nil {
			delete(object, name)
		} else {
			object[name] = mergeValue(object[name], value)
		}
	}
	return object
}
