package store_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A full disk ends a stream of the server for good, so nothing is written any more before it is
// full; what exists nowhere else may use half of the reserve.
func TestNothingIsWrittenWithoutRoom(t *testing.T) {
	t.Parallel()
	const gigabyte = 1 << 30
	var free atomic.Uint64
	free.Store(gigabyte)
	s, ctx := openWith(t, t.TempDir(),
		store.NewRoomOf(func() (uint64, uint64, error) { return free.Load(), 4 * gigabyte, nil })), t.Context()
	page := store.Page{PollID: relay.NewID(), Connection: "a", Site: "leeds",
		ReceivedAt: time.Now(), Body: []byte(`[{}]`)}
	intent := relay.TokenRecord{RefreshToken: relay.NewSecret("one"), Intent: &relay.RefreshIntent{ID: "x"}}
	result := relay.TokenRecord{RefreshToken: relay.NewSecret("two")}
	write := func() map[string]error {
		_, poll := s.Polls.Create(ctx, relay.NewID(), relay.Poll{})
		all := s.Polls.PutAll(ctx, []store.Put[relay.Poll]{{Key: relay.NewID()}})
		page.PollID = relay.NewID()
		_, inbox := s.Inbox.Append(ctx, page)
		_, before := s.Tokens.SaveToken(ctx, relay.NewID(), intent, 0)
		_, after := s.Tokens.SaveToken(ctx, relay.NewID(), result, 0)
		return map[string]error{
			"poll": poll, "many": all[0].Err, "page": inbox, "intent": before, "result": after,
			"remove": s.Lanes.Remove(ctx, []store.Removal{{Key: "none"}})[0].Err,
		}
	}
	for _, tt := range []struct {
		free    uint64
		refused []string
	}{
		{gigabyte, nil},
		{40 << 20, []string{"poll", "many", "intent", "remove"}},
		{20 << 20, []string{"poll", "many", "intent", "remove", "page", "result"}},
		{gigabyte, nil},
	} {
		free.Store(tt.free)
		ends := write()
		for _, what := range tt.refused {
			if !errors.Is(ends[what], store.ErrUnavailable) {
				t.Errorf("%d MiB free: %s ended with %v", tt.free>>20, what, ends[what])
			}
			delete(ends, what)
		}
		for what, err := range ends {
			if err != nil {
				t.Errorf("%d MiB free: %s ended with %v", tt.free>>20, what, err)
			}
		}
	}
}

func TestRoomOfARealDisk(t *testing.T) {
	t.Parallel()
	s := openWith(t, t.TempDir(), store.NewRoom(t.TempDir()))
	if _, err := s.Polls.Create(t.Context(), "a", relay.Poll{}); err != nil {
		t.Fatal(err)
	}
}
