package topology

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// shapeKey is the metadata that records whose a stream is: its value is the version of the table
// that last shaped it. A relay whose table is older leaves the shape as it is, so that two versions
// that run side by side do not undo each other's work.
const shapeKey = "audatex-relay"

// Difference is one field of a stream that is not as the table has it, in the names and values of
// NATS's own JSON, but for durations.
type Difference struct {
	Field         string
	Found, Wanted string
}

// String writes a difference for people.
func (d Difference) String() string {
	return fmt.Sprintf("%s is %s, wanted %s", d.Field, d.Found, d.Wanted)
}

// weight is what a difference in a field means.
type weight int

const (
	settable weight = iota // ours to set
	identity               // what the stream is for: another value means that it is somebody else's
	kept                   // an operator's to set: what a full log does and what is stored in it stays the same
)

// weights of the fields that are not just settable. The server gives several of the identity fields
// no second value anyway.
var weights = map[string]weight{
	"subjects": identity, "retention": identity, "storage": identity, "mirror": identity, "sources": identity,
	"subject_transform": identity, "republish": identity, "sealed": identity, "template_owner": identity,
	"persist_mode": identity, "no_ack": identity, "deny_delete": identity, "deny_purge": identity,
	"mirror_direct": identity, "discard_new_per_subject": identity, "allow_msg_counter": identity,

	"description": kept, "placement": kept, "max_bytes": kept, "max_msgs": kept, "compression": kept, "metadata": kept,
	"first_seq": kept,
}

// durations are the fields that NATS has in nanoseconds, and people read otherwise.
var durations = []string{"max_age", "duplicate_window", "subject_delete_marker_ttl"}

// shape is a stream's configuration as JSON has it.
type shape map[string]any

func shapeOf(c jetstream.StreamConfig) (shape, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of stream %s: %w", c.Name, err)
	}
	s := shape{}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("decode the configuration of stream %s: %w", c.Name, err)
	}
	for field, v := range s { // absent, zero and "no limit" are one
		if n, ok := v.(float64); ok && (n == 0 || n == -1) || v == false || v == "" || v == nil ||
			reflect.DeepEqual(v, map[string]any{}) {
			delete(s, field)
		}
	}
	return s, nil
}

func (s shape) text(field string) string {
	v, ok := s[field]
	if !ok {
		return "unset"
	}
	if n, ok := v.(float64); ok && slices.Contains(durations, field) {
		return time.Duration(n).String()
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // it was read from JSON
	return strings.TrimSuffix(b.String(), "\n")
}

// comparison is what there is of one stream against what the table has.
type comparison struct {
	found, wanted shape
	version       int // of the table that shaped it, 0 if it carries no mark
	foreign       []Difference
	settable      []Difference
}

// compare reports how a stream that was found differs from the table.
func compare(found, wanted jetstream.StreamConfig) (comparison, error) {
	var c comparison
	var err error
	if c.found, err = shapeOf(found); err != nil {
		return c, err
	}
	if c.wanted, err = shapeOf(wanted); err != nil {
		return c, err
	}
	if mark, ok := found.Metadata[shapeKey]; ok {
		if c.version, err = strconv.Atoi(mark); err != nil || c.version < 1 {
			c.foreign = append(c.foreign, Difference{"metadata." + shapeKey, strconv.Quote(mark), "a version"})
		}
	}
	fields := slices.Collect(maps.Keys(c.found))
	fields = slices.AppendSeq(fields, maps.Keys(c.wanted))
	slices.Sort(fields)
	for _, field := range slices.Compact(fields) {
		if reflect.DeepEqual(c.found[field], c.wanted[field]) ||
			field == "num_replicas" && found.Replicas > wanted.Replicas {
			continue
		}
		d := Difference{field, c.found.text(field), c.wanted.text(field)}
		switch w := weights[field]; {
		case w == kept:
		case w == identity, c.version == 0: // without a mark it is ours only if it is exactly what the relay makes
			c.foreign = append(c.foreign, d)
		default:
			c.settable = append(c.settable, d)
		}
	}
	return c, nil
}

// merged returns what is found with what differs brought to the table, and our mark.
func (c comparison) merged(version int) (jetstream.StreamConfig, error) {
	m := maps.Clone(c.found)
	for _, d := range c.settable {
		if v, ok := c.wanted[d.Field]; ok {
			m[d.Field] = v
		} else {
			delete(m, d.Field)
		}
	}
	metadata := map[string]any{}
	if had, ok := c.found["metadata"].(map[string]any); ok {
		for k, v := range had {
			if !strings.HasPrefix(k, "_nats.") { // the server's own
				metadata[k] = v
			}
		}
	}
	metadata[shapeKey] = strconv.Itoa(version)
	m["metadata"] = metadata
	raw, err := json.Marshal(m)
	if err != nil {
		return jetstream.StreamConfig{}, fmt.Errorf("encode a stream's configuration: %w", err)
	}
	var config jetstream.StreamConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return jetstream.StreamConfig{}, fmt.Errorf("decode a stream's configuration: %w", err)
	}
	return config, nil
}
