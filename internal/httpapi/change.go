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

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/store"
)

// tries is how often a change is repeated when others change the same document at the same time.
// Before each repetition the longest possible wait grows by breath.
const (
	tries  = 16
	breath = 20 * time.Millisecond
)

// rest waits before every try but the first, so that requests that collided do not collide again.
func rest(ctx context.Context, try int) {
	if try > 0 {
		backoff.Sleep(ctx, rand.N(time.Duration(min(try, tries))*breath))
	}
}

// read reads a document for a try. After the first try it asks the leader: other nodes may still
// have the rejected version.
func read[T any](ctx context.Context, b *store.Bucket[T], key string, try int) (T, uint64, error) {
	if try == 0 {
		return b.Get(ctx, key)
	}
	rest(ctx, try)
	return b.GetAtLeader(ctx, key)
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 36) + `"` }

// matches reports whether an If-Match header allows changing a version (RFC 9110, section 13.1.1).
// An empty header does.
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

// opaque returns the part of an entity tag that identifies the version. A proxy that compresses
// responses makes a tag weak, or appends the encoding. Such tags are accepted, because the store
// refuses a change anyway if there was another one in between.
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

// change reads a document, edits it and stores it. If others change it at the same time, it does so
// again, unless the caller named the version to change. Edit must return an error for what the
// caller may not see or change. First stores what must be stored before the document, because those
// who watch documents need it then.
func change[T any](
	ctx context.Context, b *store.Bucket[T], key, ifMatch string, edit func(T) (T, error), first ...func(T) error,
) (T, uint64, error) {
	return replace(ctx, b, "change", key, ifMatch, edit, first, func(v T, revision uint64) (uint64, error) {
		return b.Update(ctx, key, v, revision)
	})
}

// remove deletes a document that passes check, and returns it with its last revision.
func remove[T any](
	ctx context.Context, b *store.Bucket[T], key, ifMatch string, check func(T) error,
) (T, uint64, error) {
	return replace(ctx, b, "remove", key, ifMatch, func(v T) (T, error) { return v, check(v) }, nil,
		func(_ T, revision uint64) (uint64, error) { return revision, b.Delete(ctx, key, revision) })
}

// replace reads a document, edits it and writes the result, and repeats that after conflicts. It
// returns the revision that write returned.
func replace[T any](
	ctx context.Context, b *store.Bucket[T], what, key, ifMatch string,
	edit func(T) (T, error), first []func(T) error, write func(T, uint64) (uint64, error),
) (T, uint64, error) {
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
			if try == 0 { // the copy that was read may lag: ask the leader
				continue
			}
			return zero, 0, &problem{kind: kindPrecondition}
		}
		for _, do := range first {
			if err := do(v); err != nil {
				return zero, 0, err
			}
		}
		if revision, err = write(v, revision); err == nil {
			return v, revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return zero, 0, err
		}
	}
	return zero, 0, fmt.Errorf("%s %s: %w", what, key, store.ErrConflict)
}

// put changes the document with edit or, if there is none, stores a fresh one with create, which
// returns ErrConflict if there is one by then. First is as in change. If edit returns notFound, the
// document exists but the caller may not see it: the caller then gets the errors that it would get
// for a free id and, if there are none, learns that the id is taken.
func put[T any](
	ctx context.Context, b *store.Bucket[T], key, ifMatch string, fresh func() (T, error),
	create func(T) (uint64, error), edit func(T) (T, error), first ...func(T) error,
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

// merge applies a JSON Merge Patch (RFC 7396) to a value and returns the result as JSON.
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

// patched applies a merge patch to settings and checks the result against the settings' own schema,
// so that a patch cannot make anything that a PUT could not. The pointers in its errors are the
// same for both.
func patched[T any](a *API, settings T, patch []byte, schemaName string) (T, error) {
	var out T
	merged, err := merge(settings, patch)
	if err != nil {
		return out, err
	}
	value, err := readJSON(merged)
	if err != nil {
		return out, err
	}
	if errs := a.contract.fieldErrors(a.contract.settings[schemaName].Validate(value)); len(errs) > 0 {
		return out, invalid(errs...)
	}
	if err := json.Unmarshal(merged, &out); err != nil {
		return out, fmt.Errorf("read patched settings that were found valid: %w", err)
	}
	return out, nil
}
