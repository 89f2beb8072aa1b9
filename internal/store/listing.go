package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/jsapi"
)

// listChunk is how many documents a listing reads at a time.
const listChunk = 4096

// All returns every document whose key starts with prefix followed by a dot, or every one if prefix
// is empty, in the order of their last change. A document that is there all the time is among them,
// no matter what happens to others. One that cannot be decoded is reported through bad and left
// out. It reads the bucket's stream, not a watch, and so ends also when keys are removed meanwhile.
func (b *Bucket[T]) All(ctx context.Context, prefix string, bad func(key string, err error)) ([]Entry[T], error) {
	if prefix == "" {
		return b.AllOf(ctx, nil, bad)
	}
	return b.AllOf(ctx, []string{prefix}, bad)
}

// FewPrefixes is how many prefixes AllOf takes where there are many keys. For more, one listing of everything costs
// less.
const FewPrefixes = 4

// ShardPrefixes returns the prefix of each shard's keys, or the one of all shards' if there are more than most.
func ShardPrefixes(shards []int, most int, of func(shard int) string, all string) []string {
	if len(shards) > most {
		return []string{all}
	}
	return each.Of(shards, of)
}

// AllOf is All of several prefixes, which are few: each costs the server something for every key.
// None means every key.
func (b *Bucket[T]) AllOf(ctx context.Context, prefixes []string, bad func(key string, err error)) ([]Entry[T], error) {
	keys := each.Of(prefixes, func(prefix string) string { return prefix + ".>" })
	var all []Entry[T]
	at := map[string]int{}
	read, news := reading(b.s.scan), false
	for from := uint64(1); ; {
		entries, last, more, err := b.changed(ctx, read, from, keys, nil, listChunk, bad)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if i, again := at[e.Key]; again { // changed while we read
				all[i] = e
				continue
			}
			at[e.Key] = len(all)
			all = append(all, e)
			news = true
		}
		if from = last + 1; more {
			continue
		}
		if !news {
			return all, nil
		}
		read, news = b.s.behind, false // what was overwritten before it was read comes after the end that was seen
	}
}

// Count returns how many documents there are whose keys start with prefix followed by a dot. It
// reads the headers only. One that is changed meanwhile may be missed.
func (b *Bucket[T]) Count(ctx context.Context, prefix string) (int, error) {
	keys := map[string]bool{}
	last := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: []string{b.subject(prefix + ".>")},
		HeadersOnly: true,
	}
	if _, _, err := b.s.readNow(ctx, "KV_"+b.name, last, wholeMessages, math.MaxUint64, func(m Message) {
		if keys[m.Subject] = !isMarker(m.Header); !keys[m.Subject] {
			delete(keys, m.Subject)
		}
	}); err != nil {
		return 0, fmt.Errorf("count %s of bucket %s: %w", prefix, b.name, err)
	}
	return len(keys), nil
}

// Keys returns the keys that start with prefix followed by a dot, also of what was removed a short time ago. It is one
// request to the leader and needs no reader, and returns at most 100,000.
func (b *Bucket[T]) Keys(ctx context.Context, prefix string) ([]string, error) {
	fail := func(err error) error { return fmt.Errorf("list the keys %s of bucket %s: %w", prefix, b.name, err) }
	if err := b.s.health.reachable(); err != nil {
		return nil, fail(err)
	}
	var info jetstream.StreamInfo
	err := jsapi.Call(ctx, b.s.js, "STREAM.INFO.KV_"+b.name,
		map[string]string{"subjects_filter": b.subject(prefix + ".>")}, &info)
	if err != nil {
		return nil, fail(classify(err))
	}
	keys := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, subject[len(b.subject("")):])
	}
	return keys, nil
}

// Changed returns up to limit documents in the order of their last change, from a revision on, and
// whether more are there. Keys are subject filters within the bucket ("leeds.>", "*.5f0c…"); none
// means every key. A page may be read on from the last revision + 1: a document that changes
// meanwhile comes again, none is missed. One that cannot be decoded is reported through bad and
// left out. Last is the revision of the last entry looked at, from-1 if there was none.
func (b *Bucket[T]) Changed(
	ctx context.Context, from uint64, keys []string, limit int, bad func(key string, err error),
) (entries []Entry[T], last uint64, more bool, err error) {
	return b.changed(ctx, b.s.scan, from, keys, nil, limit, bad)
}

// ChangedOf is Changed of those keys only that pass; the documents of others are not decoded. It
// looks until it has as many as limit allows: it is for filters that few keys fit.
func (b *Bucket[T]) ChangedOf(
	ctx context.Context, from uint64, keys []string, pass func(key string) bool, limit int,
	bad func(key string, err error),
) (entries []Entry[T], last uint64, more bool, err error) {
	return b.changed(ctx, b.s.scan, from, keys, pass, limit, bad)
}

// reading is how a part of a stream is read: scan, or behind where little is expected.
type reading func(ctx context.Context, stream string, from uint64, since time.Time, filters []string,
	most int) ([]Message, bool, error)

func (b *Bucket[T]) changed(
	ctx context.Context, read reading, from uint64, keys []string, pass func(key string) bool, limit int,
	bad func(key string, err error),
) (entries []Entry[T], last uint64, more bool, err error) {
	filters := each.Of(keys, b.subject)
	from = max(from, 1)
	last = from - 1
	for len(entries) < limit {
		messages, some, err := read(ctx, "KV_"+b.name, last+1, time.Time{}, filters, limit-len(entries))
		if err != nil {
			return nil, 0, false, fmt.Errorf("read changes of bucket %s: %w", b.name, err)
		}
		for _, m := range messages {
			last = m.Seq
			if isMarker(m.Header) {
				continue
			}
			key := m.Subject[len(b.subject("")):]
			if pass != nil && !pass(key) {
				continue
			}
			v, err := b.codec.decode(key, m.Data)
			if err != nil {
				bad(key, err)
				continue
			}
			entries = append(entries, Entry[T]{Key: key, Value: v, Revision: m.Seq, Written: m.Time})
		}
		if more = some; !some || len(messages) == 0 {
			break
		}
	}
	return entries, last, more, nil
}

// Since returns the revision from which Changed must read to find everything that was written at or
// after a time.
func (b *Bucket[T]) Since(ctx context.Context, at time.Time) (uint64, error) {
	stream := "KV_" + b.name
	first, _, err := b.s.scan(ctx, stream, 0, at, nil, 1)
	if err != nil {
		return 0, fmt.Errorf("find %s in bucket %s: %w", at, b.name, err)
	}
	if len(first) > 0 {
		return first[0].Seq, nil
	}
	_, last, err := b.s.bounds(ctx, stream)
	return last + 1, err
}
