package store

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

// Mirrored is what a Mirror copies: a Bucket, or in tests something in its place.
type Mirrored[T any] interface {
	Watch(ctx context.Context, each func(Entry[T]), ready func(), bad func(key string, err error)) error
	Current(ctx context.Context, keys []string) []Present[T]
}

// MirrorConfig is what NewMirror needs.
type MirrorConfig[T any] struct {
	Bucket Mirrored[T]
	Log    *slog.Logger
	// What names the documents in the log: "client".
	What string
	// Group sorts documents into groups, which Page and Count can be asked for: the client of a
	// callback. It may be nil. "" is all of them.
	Group func(T) string
	// OnChange is called with what was known of a document and what is known now; nil where there
	// is none. Calls come one after the other, in the order in which the copy changes, and may read
	// it. It may be nil, and must not block.
	OnChange func(before, now *Entry[T])
}

// Mirror is a copy in memory of all documents of a bucket. Run keeps it: it follows the bucket,
// removes what is no longer there, and continues through any trouble of the store. It shows what
// other processes write a moment later. A process adds its own writes by Put and Removed, so that
// each writer finds what it wrote.
type Mirror[T any] struct {
	c     MirrorConfig[T]
	ready chan struct{}
	first sync.Once

	changing sync.Mutex // held while a change is made and reported: they come one at a time
	list     int        // how often all documents were listed, or began to be
	// earlier is what was listed at lower revisions than are known, while the list is not complete.
	// Then what is known has gone, with the last writes of a server that lost them.
	earlier map[string]Entry[T]

	mu     sync.RWMutex
	docs   map[string]mirrored[T]
	gone   map[string]uint64 // removed at these revisions, which the watch has still to show
	groups groups
	shown  uint64 // everything up to here the watch has shown
	listed uint64 // the same, of the present list alone
}

type mirrored[T any] struct {
	Entry[T]
	list int
}

// NewMirror makes a Mirror that knows of nothing.
func NewMirror[T any](c MirrorConfig[T]) *Mirror[T] {
	return &Mirror[T]{
		c: c, ready: make(chan struct{}), docs: map[string]mirrored[T]{}, gone: map[string]uint64{}, groups: groups{},
	}
}

// Ready is closed once all documents are known.
func (m *Mirror[T]) Ready() <-chan struct{} { return m.ready }

// Run keeps the copy until ctx ends.
func (m *Mirror[T]) Run(ctx context.Context) {
	wait := &backoff.Backoff{Least: 100 * time.Millisecond, Most: 5 * time.Second}
	KeepWatching(ctx, m.c.Log, m.c.What, wait, func() error {
		m.changing.Lock()
		m.list, m.earlier = m.list+1, map[string]Entry[T]{}
		m.mu.Lock()
		m.listed = 0
		m.mu.Unlock()
		m.changing.Unlock()
		return m.c.Bucket.Watch(ctx, m.take, func() {
			m.forget()
			m.first.Do(func() { close(m.ready) })
			wait.Reset()
		}, m.unreadable)
	})
}

// take takes what the watch shows.
func (m *Mirror[T]) take(e Entry[T]) {
	if e.Deleted {
		m.set(e.Key, e.Revision, nil, false)
	} else {
		m.set(e.Key, e.Revision, &e, false)
	}
	if !e.early {
		m.mu.Lock()
		m.shown, m.listed = max(m.shown, e.Revision), max(m.listed, e.Revision)
		if m.gone[e.Key] <= m.shown {
			delete(m.gone, e.Key)
		}
		m.mu.Unlock()
	}
}

// unreadable keeps a document that cannot be read as it was before.
func (m *Mirror[T]) unreadable(key string, err error) {
	m.c.Log.Error("a stored document cannot be read; what was known of it before stays in force",
		m.c.What, key, "error", err)
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, known := m.docs[key]; known {
		d.list = m.list
		m.docs[key] = d
	}
}

// forget removes what was not among what was listed: it was removed while nobody watched, or was lost
// with what had been written last. In the latter case what was listed holds. What was written by this
// process since the list began is not old enough to be missed in it.
func (m *Mirror[T]) forget() {
	m.changing.Lock()
	defer m.changing.Unlock()
	var missed []mirrored[T]
	for _, d := range m.docs {
		if d.list < m.list {
			missed = append(missed, d)
		}
	}
	for _, d := range missed {
		m.change(d.Key, d.Revision, nil)
	}
	for key, e := range m.earlier {
		if _, there := m.docs[key]; !there {
			m.change(key, e.Revision, &e)
		}
	}
	m.earlier = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shown = m.listed
	for key, revision := range m.gone { // the list is complete
		if revision <= m.shown {
			delete(m.gone, key)
		}
	}
}

// Read reads a document at the bucket's leader, takes in what is there, and returns what is known
// then. It is for callers that need to know more than the watch may have shown so far. On an error
// it returns what was known before.
func (m *Mirror[T]) Read(ctx context.Context, key string) (e Entry[T], there bool, err error) {
	e, there = m.Get(key)
	switch now := m.c.Bucket.Current(ctx, []string{key})[0]; {
	case now.Err != nil:
		return e, there, now.Err
	case !now.Deleted:
		m.Put(key, now.Value, now.Revision)
	case there || now.Revision > 0: // its marker may have expired
		m.Removed(key, max(e.Revision, now.Revision))
	}
	e, there = m.Get(key)
	return e, there, nil
}

// Put takes in a document as stored at a revision. A process that has just written one calls it. An
// older revision than the one known changes nothing.
func (m *Mirror[T]) Put(key string, v T, revision uint64) {
	m.set(key, revision, &Entry[T]{Key: key, Value: v, Revision: revision}, true)
}

// Removed takes in that a document is gone. The revision is that of the removal, or of the document
// that was removed.
func (m *Mirror[T]) Removed(key string, revision uint64) { m.set(key, revision, nil, true) }

// set makes a change unless something later is known. Own: this process made it.
func (m *Mirror[T]) set(key string, revision uint64, now *Entry[T], own bool) {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.RLock()
	d, there := m.docs[key]
	removed, gone := m.gone[key]
	listed := m.earlier != nil && now != nil && !own
	if e, ok := m.earlier[key]; ok && revision > e.Revision {
		delete(m.earlier, key)
	}
	passed := own && !there && revision <= m.shown // the watch has shown it, and then its removal
	m.mu.RUnlock()
	switch {
	case passed:
		return
	case there && (revision < d.Revision || revision == d.Revision && now != nil):
		if revision == d.Revision {
			m.mu.Lock()
			d.list = m.list
			m.docs[key] = d
			m.mu.Unlock()
		} else if listed {
			m.earlier[key] = *now
		}
		return
	case !there && gone && revision <= removed:
		if listed {
			m.earlier[key] = *now
		}
		return
	}
	m.change(key, revision, now)
}

// change makes a change and calls OnChange; changing is held.
func (m *Mirror[T]) change(key string, revision uint64, now *Entry[T]) {
	var before *Entry[T]
	m.mu.Lock()
	if d, there := m.docs[key]; there {
		before = &d.Entry
	}
	if now != nil {
		m.docs[key] = mirrored[T]{*now, m.list}
		delete(m.gone, key)
	} else {
		delete(m.docs, key)
		if revision > m.shown {
			m.gone[key] = revision
		}
	}
	for _, group := range m.groupsOf(before, now) {
		m.groups.set(group, key, now != nil && (group == "" || group == m.c.Group(now.Value)))
	}
	m.mu.Unlock()
	if m.c.OnChange != nil && (before != nil || now != nil) {
		m.c.OnChange(before, now)
	}
}

// groupsOf returns the groups in which a document was or is.
func (m *Mirror[T]) groupsOf(entries ...*Entry[T]) []string {
	found := []string{""}
	for _, e := range entries {
		if e == nil || m.c.Group == nil {
			continue
		}
		if group := m.c.Group(e.Value); !slices.Contains(found, group) {
			found = append(found, group)
		}
	}
	return found
}

// Get returns a document as it is known now, and whether it is there.
func (m *Mirror[T]) Get(key string) (Entry[T], bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d, there := m.docs[key]
	return d.Entry, there
}

// Each calls f with every document, in no order. F must not use the mirror.
func (m *Mirror[T]) Each(f func(Entry[T])) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, d := range m.docs {
		f(d.Entry)
	}
}

// Count returns how many documents there are in a group.
func (m *Mirror[T]) Count(group string) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.groups[group])
}

// Keys returns the keys of a group, sorted.
func (m *Mirror[T]) Keys(group string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.groups[group])
}

// Page returns up to limit documents of a group that pass, in the order of their keys from behind
// after on, and whether there are more. It looks at no others. Pass may be nil, and must not use
// the mirror.
func (m *Mirror[T]) Page(group, after string, limit int, pass func(T) bool) (entries []Entry[T], more bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	keys := m.groups[group]
	if after != "" {
		i, there := slices.BinarySearchFunc(keys, after, strings.Compare)
		if there {
			i++
		}
		keys = keys[i:]
	}
	for _, key := range keys {
		d := m.docs[key]
		if pass != nil && !pass(d.Value) {
			continue
		}
		if len(entries) == limit {
			return entries, true
		}
		entries = append(entries, d.Entry)
	}
	return entries, false
}

// groups are the sorted keys of the documents of each group that has any.
type groups map[string][]string

// set sets whether a key is among those of a group.
func (g groups) set(group, key string, in bool) {
	keys := g[group]
	i, there := slices.BinarySearch(keys, key)
	switch {
	case in && !there:
		g[group] = slices.Insert(keys, i, key)
	case !in && there && len(keys) == 1:
		delete(g, group)
	case !in && there:
		g[group] = slices.Delete(keys, i, i+1)
	}
}
