package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

const (
	// resealAtOnce is how many documents are rewritten together, resealPause the rest after them:
	// refreshes and polls need the store too.
	resealAtOnce = 32
	resealPause  = 50 * time.Millisecond
	// What is encrypted with which key is counted again this often: soon while something is left,
	// seldom while one key does it all.
	recountLeft = 5 * time.Second
	recountMany = 5 * time.Minute
	recountOne  = time.Hour
	// keysNamed bounds how many keys that are not given are listed separately.
	keysNamed = 16
)

// KeyUse is how much is encrypted with a key.
type KeyUse struct {
	ID      uint32
	Secrets int
	Given   bool // it can be decrypted
}

// KeyStatus is what everything in the store is encrypted with.
type KeyStatus struct {
	CheckedAt time.Time // zero: it was not looked at yet
	Writing   uint32    // the key that encrypts
	Left      int       // secrets that other keys have encrypted
	Keys      []KeyUse  // by id; all that are given, and others that are met
}

// Through reports whether the key that encrypts is the only one that is needed.
func (s KeyStatus) Through() bool { return !s.CheckedAt.IsZero() && s.Left == 0 }

// Resealer encrypts again with the first key what other keys have encrypted. Any number of replicas
// may do so at once: each write is conditional on what was read, and changes only the ciphertext. A
// resealer that was interrupted finds the rest by looking again.
type Resealer struct {
	s             *Store
	log           *slog.Logger
	status        atomic.Pointer[KeyStatus]
	loggedThrough bool
	many          *prometheus.Desc
	left          *prometheus.Desc
}

// NewResealer makes a Resealer, whose metrics metrics takes.
func NewResealer(s *Store, metrics prometheus.Registerer, log *slog.Logger) *Resealer {
	r := &Resealer{
		s: s, log: log,
		many: prometheus.NewDesc("audatex_relay_sealed_secrets",
			"Secrets in the store by the id of the key that has encrypted them, and by what the key is for: writing, "+
				"reading, missing.",
			[]string{"key", "use"}, nil),
		left: prometheus.NewDesc("audatex_relay_reencryption_left",
			"Secrets that are not encrypted with the first key yet; absent until they were counted.", nil, nil),
	}
	if metrics != nil {
		metrics.MustRegister(r)
	}
	return r
}

// Describe implements prometheus.Collector.
func (r *Resealer) Describe(ch chan<- *prometheus.Desc) { ch <- r.many; ch <- r.left }

// Collect implements prometheus.Collector.
func (r *Resealer) Collect(ch chan<- prometheus.Metric) {
	s := r.Status()
	if s.CheckedAt.IsZero() {
		return
	}
	ch <- prometheus.MustNewConstMetric(r.left, prometheus.GaugeValue, float64(s.Left))
	for _, k := range s.Keys {
		ch <- prometheus.MustNewConstMetric(r.many, prometheus.GaugeValue, float64(k.Secrets),
			strconv.FormatUint(uint64(k.ID), 10), s.Use(k))
	}
}

// Use names what a key is for.
func (s KeyStatus) Use(k KeyUse) string {
	switch {
	case k.ID == s.Writing:
		return "writing"
	case k.Given:
		return "reading"
	}
	return "missing"
}

// Status returns what was counted last.
func (r *Resealer) Status() KeyStatus {
	if s := r.status.Load(); s != nil {
		return *s
	}
	return KeyStatus{Writing: r.s.sealer.primary}
}

// Run counts, and encrypts again what is left, until ctx ends.
func (r *Resealer) Run(ctx context.Context) {
	for wait := rand.N(time.Second); backoff.Sleep(ctx, wait); {
		status, err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.log.Log(ctx, Level(err, slog.LevelWarn),
				"what the secrets in the store are encrypted with cannot be looked at; it is tried again", "error", err)
			wait = recountLeft
			continue
		}
		r.status.Store(&status)
		r.logStatus(ctx, status)
		switch wait = recountOne; {
		case slices.ContainsFunc(status.Keys, func(k KeyUse) bool {
			return k.Given && k.ID != status.Writing && k.Secrets > 0
		}):
			wait = recountLeft
		case len(status.Keys) > 1:
			wait = recountMany
		}
		wait += rand.N(wait / 4)
	}
}

// logStatus logs what an operator must know before a key is taken away.
func (r *Resealer) logStatus(ctx context.Context, s KeyStatus) {
	for _, k := range s.Keys {
		if !k.Given && k.Secrets > 0 {
			r.log.ErrorContext(ctx,
				"secrets in the store are encrypted with a key that is not given; add it to RELAY_ENCRYPTION_KEYS",
				"key", k.ID, "secrets", k.Secrets)
		}
	}
	switch {
	case s.Left > 0:
		r.loggedThrough = false
		r.log.InfoContext(ctx, "secrets are being encrypted again with the first key", "key", s.Writing, "left", s.Left)
	case len(s.Keys) > 1 && !r.loggedThrough:
		r.loggedThrough = true
		r.log.InfoContext(ctx,
			"all secrets are encrypted with the first key; the others are needed no more, once no replica runs with "+
				"another first key",
			"key", s.Writing)
	}
}

// pass looks at everything that is sealed, once, and encrypts again what it may.
func (r *Resealer) pass(ctx context.Context) (KeyStatus, error) {
	use := map[uint32]int{}
	for _, b := range sealedBuckets {
		bucket, err := openBucket(ctx, r.s, b.name, rawCodec{})
		if err != nil {
			return KeyStatus{}, err
		}
		if err := r.bucket(ctx, b, bucket, use); err != nil {
			return KeyStatus{}, err
		}
	}
	sealer := r.s.sealer
	status := KeyStatus{CheckedAt: time.Now().UTC(), Writing: sealer.primary}
	for _, id := range sealer.readable {
		use[id] += 0
	}
	for id, n := range use {
		if id != sealer.primary {
			status.Left += n
		}
		status.Keys = append(status.Keys, KeyUse{ID: id, Secrets: n, Given: slices.Contains(sealer.readable, id)})
	}
	slices.SortFunc(status.Keys, func(a, b KeyUse) int {
		return cmp.Or(cmp.Compare(oneIf(b.Given), oneIf(a.Given)),
			cmp.Compare(b.Secrets, a.Secrets), cmp.Compare(a.ID, b.ID))
	})
	status.Keys = status.Keys[:min(len(status.Keys), len(sealer.readable)+keysNamed)]
	return status, nil
}

// bucket is pass for one bucket: it adds how many secrets each key has encrypted.
func (r *Resealer) bucket(
	ctx context.Context, of sealedBucket, bucket *Bucket[json.RawMessage], use map[uint32]int,
) error {
	there := map[string][]uint32{} // by document: one that is rewritten comes again
	var puts []Put[json.RawMessage]
	rewrite := func() error {
		for i, result := range bucket.PutAll(ctx, puts) {
			if result.Err == nil {
				there[puts[i].Key] = slices.Repeat([]uint32{r.s.sealer.primary}, len(there[puts[i].Key]))
			} else if !errors.Is(result.Err, ErrConflict) && !errors.Is(result.Err, ErrUnclear) { // else the next pass looks again
				return fmt.Errorf("encrypt %s of bucket %s again: %w", puts[i].Key, bucket.name, result.Err)
			}
		}
		puts = nil
		if !backoff.Sleep(ctx, resealPause) {
			return ctx.Err()
		}
		return nil
	}
	for from, more := uint64(1), true; more; {
		entries, last, some, err := bucket.Changed(ctx, from, nil, 256, func(string, error) {})
		if err != nil {
			return err
		}
		for _, e := range entries {
			next, keys, changed := r.reseal(ctx, of, e)
			there[e.Key] = keys
			if !changed {
				continue
			}
			put := Put[json.RawMessage]{Key: e.Key, Value: next.raw, Revision: e.Revision}
			if of.life != nil {
				put.TTL = of.life(next.doc)
			}
			if puts = append(puts, put); len(puts) >= resealAtOnce {
				if err := rewrite(); err != nil {
					return err
				}
			}
		}
		from, more = last+1, some
	}
	if len(puts) > 0 {
		if err := rewrite(); err != nil {
			return err
		}
	}
	for _, keys := range there {
		for _, id := range keys {
			use[id]++
		}
	}
	return nil
}

// resealed is a document with what it holds encrypted again.
type resealed struct {
	doc map[string]json.RawMessage
	raw json.RawMessage
}

// reseal returns a document encrypted by the first key, which keys it is encrypted with, and
// whether it must be rewritten. What cannot be read stays as it is.
func (r *Resealer) reseal(
	ctx context.Context, of sealedBucket, e Entry[json.RawMessage],
) (next resealed, keys []uint32, changed bool) {
	bad := func(err error) (resealed, []uint32, bool) {
		r.log.ErrorContext(ctx, "a stored document cannot be read, nor encrypted again", "bucket", string(of.name),
			"key", e.Key, "error", err)
		return resealed{}, keys, false
	}
	if err := json.Unmarshal(e.Value, &next.doc); err != nil {
		return bad(err)
	}
	holders, err := of.holders(e.Key, next.doc)
	if err != nil {
		return bad(err)
	}
	for _, h := range holders {
		var sealed []byte
		if raw := h.part["sealed"]; len(raw) == 0 || json.Unmarshal(raw, &sealed) != nil || len(sealed) == 0 {
			continue
		}
		id, _ := keyOf(sealed)
		keys = append(keys, id)
		if id == r.s.sealer.primary || !slices.Contains(r.s.sealer.readable, id) {
			continue
		}
		again, err := r.s.sealer.again(h.place, sealed)
		if err != nil {
			return bad(err)
		}
		if h.part["sealed"], err = json.Marshal(again); err != nil {
			return bad(err)
		}
		changed = true
	}
	if !changed {
		return next, keys, false
	}
	if of.name == topology.Consents {
		parts := each.Of(holders, func(h sealedHolder) map[string]json.RawMessage { return h.part })
		if next.doc["attempts"], err = relay.Encode(parts); err != nil {
			return bad(err)
		}
	}
	if next.raw, err = relay.Encode(next.doc); err != nil {
		return bad(err)
	}
	return next, keys, true
}
