package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxChanges bounds the changes that Diff returns.
	MaxChanges = 1000
	// maxDiffDepth bounds how deep nested objects are compared field by field; deeper ones are
	// compared as a whole. The vendor's orders have two levels.
	maxDiffDepth = 32
)

var null = json.RawMessage("null")

// Diff returns the differences between two snapshots of an order, as JSON pointers into after. They
// come in the order of after's fields; removed fields come last in their object, and removed parts
// after all other parts. Nested objects are compared field by field, arrays other than Parts as a
// whole.
//
//   - Parts match by their two numbers and, where those are equal, by occurrence. A part that only
//     moved is not a change. A removed part has the path /Parts/-, a new one the path /Parts/<i>
//     and from null.
//   - null, absent and 0001-01-01T00:00:00 (the vendor's "no date") are equal. Numbers are equal by
//     value: 12.50 is 12.5.
//   - From and To are the bytes as they came.
//   - If before is empty (a new order), there are no changes.
//   - If there are more than MaxChanges, Diff returns the first MaxChanges-1 and a last one with an
//     empty path, which points at the whole order, and null in From and To. The caller must then
//     compare the orders itself.
//
// It returns an error if one of the two is not a JSON object.
func Diff(before, after json.RawMessage) ([]Change, error) {
	a, err := readObject(after)
	if err != nil {
		return nil, fmt.Errorf("read the new snapshot: %w", err)
	}
	if len(before) == 0 {
		return nil, nil
	}
	b, err := readObject(before)
	if err != nil {
		return nil, fmt.Errorf("read the snapshot before: %w", err)
	}
	var d differ
	d.objects("", nil, b, a, 0)
	if len(d.changes) > MaxChanges {
		d.changes = append(d.changes[:MaxChanges-1:MaxChanges-1], Change{From: null, To: null})
	}
	return d.changes, nil
}

// StatusOf returns the order's Status, or "" if it has none.
func StatusOf(order json.RawMessage) string {
	status, _ := StatusAndReference(order)
	return status
}

// StatusAndReference returns an order's status, and its number at the shop; "" for one that it does
// not have.
func StatusAndReference(order json.RawMessage) (status, reference string) {
	o, err := readObject(order)
	if err != nil {
		return "", ""
	}
	return plainText(o.get("Status")), plainText(o.get("OrderReference"))
}

// differ collects changes.
type differ struct{ changes []Change }

func (d *differ) full() bool { return len(d.changes) > MaxChanges }

func (d *differ) add(path string, part *PartKey, from, to json.RawMessage) {
	d.changes = append(d.changes, Change{Path: path, Part: part, From: orNull(from), To: orNull(to)})
}

// objects compares two objects at path, field by field.
func (d *differ) objects(path string, part *PartKey, before, after object, depth int) {
	for _, m := range after.members {
		if was := before.get(m.name); !bytes.Equal(was, m.value) { // most are, and need no path
			d.values(path+"/"+escapePointer(m.name), part, was, m.value, depth)
		}
	}
	for _, m := range before.members {
		if after.get(m.name) == nil {
			d.values(path+"/"+escapePointer(m.name), part, m.value, nil, depth)
		}
	}
}

// values compares two values at path; nil means absent.
func (d *differ) values(path string, part *PartKey, before, after json.RawMessage, depth int) {
	if d.full() {
		return
	}
	if depth == 0 && path == "/Parts" && d.parts(before, after) {
		return
	}
	if depth < maxDiffDepth && isObject(before) && isObject(after) {
		b, errB := readObject(before)
		a, errA := readObject(after)
		if errA == nil && errB == nil {
			d.objects(path, part, b, a, depth+1)
			return
		}
	}
	if !equalValues(before, after) {
		d.add(path, part, before, after)
	}
}

// parts compares the orders' parts. It returns false if they are not two lists of objects; then
// they are compared like any other field. An absent list counts as empty.
func (d *differ) parts(before, after json.RawMessage) bool {
	b, okB := readParts(before)
	a, okA := readParts(after)
	if !okB || !okA {
		return false
	}
	was := make(map[PartKey]part, len(b))
	for _, p := range b {
		was[p.key] = p
	}
	for i, p := range a {
		if d.full() {
			return true
		}
		path := "/Parts/" + strconv.Itoa(i)
		old, ok := was[p.key]
		if !ok {
			d.add(path, &p.key, nil, p.raw)
			continue
		}
		delete(was, p.key)
		if !bytes.Equal(old.raw, p.raw) {
			d.objects(path, &p.key, old.fields, p.fields, 1)
		}
	}
	for _, p := range b {
		if _, gone := was[p.key]; gone && !d.full() {
			d.add("/Parts/-", &p.key, p.raw, nil)
		}
	}
	return true
}

// part is one part of an order and its key.
type part struct {
	key    PartKey
	fields object
	raw    json.RawMessage
}

func readParts(raw json.RawMessage) ([]part, bool) {
	if isNothing(raw) {
		return nil, true
	}
	var elements []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &elements) != nil {
		return nil, false
	}
	parts := make([]part, 0, len(elements))
	occurrences := map[PartKey]int{}
	for _, e := range elements {
		fields, err := readObject(e)
		if err != nil {
			return nil, false
		}
		key := PartKey{OEPartNumber: plainText(fields.get("OEPartNumber")),
			OrderedPartNumber: plainText(fields.get("OrderedPartNumber"))}
		occurrences[key]++
		n := occurrences[key]
		key.Occurrence = n
		parts = append(parts, part{key: key, fields: fields, raw: e})
	}
	return parts, true
}

// object is a JSON object whose members keep their order and their bytes.
type object struct {
	members []member
	index   map[string]int
}

type member struct {
	name  string
	value json.RawMessage
}

// get returns a member's value, or nil if there is none.
func (o object) get(name string) json.RawMessage {
	if i, ok := o.index[name]; ok {
		return o.members[i].value
	}
	return nil
}

// readObject reads one object. If a name is repeated, the last value counts, as in encoding/json.
func readObject(raw json.RawMessage) (object, error) {
	o := object{index: map[string]int{}}
	if !isObject(raw) {
		return o, fmt.Errorf("not a JSON object")
	}
	if !json.Valid(raw) { // the decoder below does not look at what follows the object
		return o, fmt.Errorf("not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return o, err
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return o, err
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return o, err
		}
		if i, ok := o.index[name]; ok {
			o.members[i].value = value
			continue
		}
		o.index[name] = len(o.members)
		o.members = append(o.members, member{name, value})
	}
	return o, nil
}

func isObject(raw json.RawMessage) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{'
}

func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return null
	}
	return slices.Clone(raw)
}

// plainText returns a string's text, a number or a boolean as it is written, and "" for anything
// else.
func plainText(raw json.RawMessage) string {
	if len(raw) == 0 || isNothing(raw) {
		return ""
	}
	switch raw[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return s
	case '{', '[':
		return ""
	}
	return string(raw)
}

// escapePointer writes a name as a token of a JSON pointer (RFC 6901, section 3).
func escapePointer(name string) string { return pointerEscaper.Replace(name) }

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

// Change is one difference between two snapshots of an order.
type Change struct {
	Path string          `json:"path"` // JSON pointer (RFC 6901) into data.order; /Parts/- for a part that is gone
	Part *PartKey        `json:"part,omitempty"`
	From json.RawMessage `json:"from"` // null: was not there
	To   json.RawMessage `json:"to"`   // null: is not there
}

// PartKey identifies a part in different snapshots. The vendor gives parts no id, so parts with
// equal numbers are distinguished by their occurrence.
type PartKey struct {
	OEPartNumber      string `json:"oePartNumber"`
	OrderedPartNumber string `json:"orderedPartNumber"`
	Occurrence        int    `json:"occurrence"` // 1 for the first part with these numbers
}
