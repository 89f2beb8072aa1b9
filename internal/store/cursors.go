package store

import (
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// CursorKind is what a cursor in relay_cursors reads, and for whom. Keys begin with the shard, so
// that the documents of a kind of one shard are one listing:
//
//	<shard>.<kind>.<id>           a cursor, in relay_cursors
//	<shard>.<kind>.<id>.<order>   one of its lanes, in relay_lanes
//	<shard>.watermark.<log>       what the quiet callbacks of a shard have in common, in relay_cursors
type CursorKind string

// The kinds.
const (
	InboxCursors    CursorKind = "inbox"    // a connection's reader of the inbox, by the connection's id
	CallbackCursors CursorKind = "callback" // a callback's reader of the events, by the callback's id
	ReplayCursors   CursorKind = "replay"   // a replay's reader of the events, by ReplayCursor
)

// Key is the key of one cursor.
func (k CursorKind) Key(id string) string { return k.OfShard(k.Shard(id)) + "." + id }

// Shard is the shard of one cursor.
func (k CursorKind) Shard(id string) int {
	if k == ReplayCursors {
		id = id[:max(len(id)-replayIDBytes-1, 0)]
	}
	return relay.ShardOf(id)
}

// replayIDBytes is the length of a replay's id.
const replayIDBytes = 32

// ReplayCursor is the id of a replay's reader of the events: it belongs to the shard of the callback.
func ReplayCursor(callback, replay string) string { return callback + "-" + replay }

// ParseReplayCursor is the way back from ReplayCursor; false for what is none.
func ParseReplayCursor(id string) (callback, replay string, ok bool) {
	at := len(id) - replayIDBytes - 1
	if at < 1 || id[at] != '-' {
		return "", "", false
	}
	return id[:at], id[at+1:], true
}

// OfShard is what the keys of all cursors of a shard begin with.
func (k CursorKind) OfShard(shard int) string { return strconv.Itoa(shard) + "." + string(k) }

// Everywhere is OfShard for all shards, as a listing takes it.
func (k CursorKind) Everywhere() string { return "*." + string(k) }

// CallbackCursor is the key of a callback's reader of the events.
func CallbackCursor(callback string) string { return CallbackCursors.Key(callback) }

// LaneKey is the key of one lane of a cursor.
func LaneKey(cursor, order string) string { return cursor + "." + order }

// ParseCursorKey is the way back from the key of a cursor or, if order is not "", of a lane.
func ParseCursorKey(key string) (kind CursorKind, id, order string, ok bool) {
	parts := strings.SplitN(key, ".", 4)
	if len(parts) < 3 {
		return "", "", "", false
	}
	kind, id = CursorKind(parts[1]), parts[2]
	if len(parts) == 4 {
		order = parts[3]
	}
	ok = kind != watermarks && id != "" && strings.HasPrefix(key, kind.Key(id)) && (len(parts) == 3 || order != "")
	return kind, id, order, ok
}

// Watermark: every quiet callback of a shard has nothing unsettled at or below Position. It is
// stored in relay_cursors under WatermarkKey.
type Watermark struct {
	Epoch    uint64 `json:"epoch"`
	Position uint64 `json:"position"`
}

// OwnerEpoch is the epoch of the owner who wrote it.
func (w Watermark) OwnerEpoch() uint64 { return w.Epoch }

// watermarks is the part of a watermark's key where other keys have a kind.
const watermarks = CursorKind("watermark")

// AllWatermarks are the watermarks of all shards, as a listing takes them.
var AllWatermarks = watermarks.Everywhere()

// WatermarkKey is the key of a shard's watermark over a log ("events").
func WatermarkKey(shard int, log string) string { return watermarks.OfShard(shard) + "." + log }
