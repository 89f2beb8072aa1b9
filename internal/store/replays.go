package store

import (
	"strconv"

	"github.com/audatex-relay/relay/internal/relay"
)

// ReplayKey is the key of a replay of a callback. Keys begin with the callback's shard, whose owner
// works the replay.
func ReplayKey(callback, replay string) string { return ReplaysOf(callback) + "." + replay }

// ReplaysOf is what the keys of all replays of a callback begin with.
func ReplaysOf(callback string) string {
	return strconv.Itoa(relay.ShardOf(callback)) + "." + callback
}
