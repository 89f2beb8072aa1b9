package poller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const testOrder = "5f0c0000-0000-4000-8000-000000000001"

// element is a notification of about so many bytes.
func element(n, size int) string {
	e := fmt.Sprintf(`{"NotificationId":"n%d","Topic":"PARTS.ORDER.UPDATED","SiteId":"4711",`+
		`"CreatedAt":"2026-01-15T09:38:44Z","Resources":[{"ResourceType":"PartsOrder","ResourceId":%q}],"Message":""}`,
		n, testOrder)
	return e[:len(e)-2] + strings.Repeat("x", max(0, size-len(e))) + `"}`
}

func limited(t *testing.T, maxPayload int32) (*Poller, *natstest.Limited, *atomic.Pointer[store.Gate]) {
	t.Helper()
	server, gate := natstest.StartLimited(t, maxPayload), new(atomic.Pointer[store.Gate])
	s, err := store.Open(t.Context(), store.Config{
		Conn: server.Conn(), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
		Gate: store.Gate{
			Before: func(w store.Write) error {
				if g := gate.Load(); g != nil && g.Before != nil {
					return g.Before(w)
				}
				return nil
			},
			After: func(w store.Write) error {
				if g := gate.Load(); g != nil && g.After != nil {
					return g.After(w)
				}
				return nil
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Store: s, Log: slog.New(slog.DiscardHandler), Operations: &counting{}, Reconciler: &counting{},
		PollBound: time.Minute}), server, gate
}

func hold(poll, body string) *unstoredPage {
	page := store.Page{PollID: poll, Connection: "leeds", Generation: "g", ReceivedAt: time.Now(),
		Site: "leeds", Body: []byte(body)}
	return newUnstoredPage(page, audatex.ReadContents(audatex.Page{Body: page.Body}), 0)
}

// stored reads what lies in the inbox of a poll, in order.
func stored(t *testing.T, s *store.Store, poll string) (pages []store.Page) {
	t.Helper()
	all, more, err := s.Inbox.Scan(t.Context(), "leeds", 1, 1000)
	if err != nil || more {
		t.Fatal(err, more)
	}
	for _, p := range all {
		if p.PollID == poll {
			pages = append(pages, p)
		}
	}
	return pages
}

// A page that is too large for one message is stored in parts that hold every element once, in order, as it came.
func TestAPageTooLargeForOneMessageIsStoredInParts(t *testing.T) {
	t.Parallel()
	p, _, _ := limited(t, 1<<20)
	var large []string
	for n := range 40 {
		large = append(large, element(n, 90_000+n))
	}
	for name, body := range map[string]string{
		"whole":               "[" + strings.Join(large, ",\n ") + "]",
		"cut":                 "[" + strings.Join(large, ",") + `,{"Topic":"PARTS.ORD`,
		"with other elements": "[7," + strings.Join(large, ",") + `,{"a":1},"x]",[1,2]]`,
		"one is too large": "[" + strings.Join([]string{element(1, 100), element(2, 3<<20), element(3, 100)}, ",") +
			"]",
		"all in one element": element(1, 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hold(name, body)
			seq, err := p.put(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			pages := stored(t, p.Store, name)
			if len(pages) < 2 && name != "all in one element" || pages[len(pages)-1].Seq != seq {
				t.Fatalf("%d parts, the last at %d, want it at %d", len(pages), pages[len(pages)-1].Seq, seq)
			}
			var got []audatex.Notification
			for i, page := range pages {
				if page.Part != i+1 || page.More != (i < len(pages)-1) || page.EndsPoll(name) != (i == len(pages)-1) {
					t.Errorf("part %d of %d: %d, more %v", i+1, len(pages), page.Part, page.More)
				}
				c := audatex.ReadContents(audatex.Page{Body: page.Body})
				if c.Entries() != page.Entries {
					t.Errorf("part %d has %d entries and says %d", i+1, c.Entries(), page.Entries)
				}
				got = append(got, c.List...)
			}
			want := audatex.ReadContents(audatex.Page{Body: []byte(body)}).List
			if len(got) != len(want) {
				t.Fatalf("%d elements, want %d", len(got), len(want))
			}
			for i := range want {
				if len(want[i].Raw) < 1<<20 && !bytes.Equal(got[i].Raw, want[i].Raw) || got[i].Order != want[i].Order ||
					got[i].ID != want[i].ID || got[i].Topic != want[i].Topic ||
					got[i].SiteID != want[i].SiteID || got[i].CreatedAt != want[i].CreatedAt {
					t.Errorf("element %d: %.200q, want %.200q", i, got[i].Raw, want[i].Raw)
				}
			}
		})
	}
}

// Wherever storing is interrupted, trying again stores each part once: nothing is lost and nothing repeated, also when
// NATS comes back with another limit, and when the stream has one of its own.
func TestPartsAreStoredOnceHoweverStoringIsInterrupted(t *testing.T) {
	t.Parallel()
	p, server, gate := limited(t, 1<<20)
	var elements []string
	for n := range 12 {
		elements = append(elements, element(n, 110_000))
	}
	body := "[" + strings.Join(elements, ",") + "]"
	check := func(poll string) {
		t.Helper()
		var ids []string
		for _, page := range stored(t, p.Store, poll) {
			for _, n := range audatex.ReadContents(audatex.Page{Body: page.Body}).List {
				ids = append(ids, n.ID)
			}
		}
		if got := strings.Join(ids, " "); got != "n0 n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11" {
			t.Errorf("%s: notifications %s", poll, got)
		}
	}
	for n := range 4 { // of two writes, the one that fails, before and after it is stored
		poll := fmt.Sprint("poll ", n)
		var writes atomic.Int64
		fail := func(w store.Write) error {
			if writes.Add(1) == int64(n/2+1) {
				return store.ErrUnclear
			}
			return nil
		}
		g := &store.Gate{Before: fail}
		if n%2 == 1 {
			g = &store.Gate{After: fail}
		}
		gate.Store(g)
		h := hold(poll, body)
		if _, err := p.put(t.Context(), h); !errors.Is(err, store.ErrUnclear) {
			t.Fatalf("%s: %v", poll, err)
		}
		if n == 3 { // NATS comes back and takes less
			gate.Store(nil)
			server.Restart(700_000)
		}
		if _, err := p.put(t.Context(), h); err != nil {
			t.Fatalf("%s: %v", poll, err)
		}
		check(poll)
	}
	gate.Store(nil)
	js := p.Store.JetStream()
	stream, err := js.Stream(t.Context(), "relay_inbox")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(bytes int32) {
		t.Helper()
		config := stream.CachedInfo().Config
		config.MaxMsgSize = bytes
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	limit(250_000)
	if _, err := p.put(t.Context(), hold("limited stream", body)); err != nil {
		t.Fatal(err)
	}
	check("limited stream")
	limit(100)
	if _, err := p.put(t.Context(), hold("hopeless", body)); !errors.Is(err, errNeverFits) {
		t.Fatalf("%v", err)
	}
}

// A crash between the parts of a page is a suspected gap: what was stored is resolved, the rest cannot be known.
func TestACrashBetweenPartsIsASuspectedGap(t *testing.T) {
	t.Parallel()
	p, _, gate := limited(t, 1<<20)
	body := "[" + element(1, 700_000) + "," + element(2, 700_000) + "," + element(3, 700_000) + "]"
	for parts, suspected := range map[int]bool{1: true, 2: true, 3: false} {
		connection := fmt.Sprint("c", parts)
		var writes atomic.Int64
		gate.Store(&store.Gate{Before: func(store.Write) error {
			if int(writes.Add(1)) > parts {
				return store.ErrUnavailable
			}
			return nil
		}})
		h := hold("poll", body)
		h.page.Connection, h.next.Connection, h.page.PollID = connection, connection, connection
		if _, err := p.put(t.Context(), h); (err == nil) != (parts == 3) {
			t.Fatal(err)
		}
		gate.Store(nil)
		now := time.Now()
		doc := relay.Poll{Generation: "g", Epoch: 3, Intent: &relay.PollIntent{PollID: connection, Owner: "gone",
			At: now.Add(-time.Hour), Deadline: now.Add(-time.Hour)}}
		if _, err := p.Store.Polls.Create(t.Context(), connection, doc); err != nil {
			t.Fatal(err)
		}
		r := &runner{p: p, log: p.Log, lease: shardtest.Fixed(0, 5), generation: "g",
			connection: relay.Connection{ID: connection, Generation: "g"}}
		if !r.adopt(t.Context()) || r.doc.Intent != nil || (r.doc.GapSuspectedAt != nil) != suspected {
			t.Errorf("%d of 3 parts: %+v", parts, r.doc)
		}
	}
}

// What keeps one connection's page from being stored keeps no other's.
func TestAKeptPageBlocksNoOther(t *testing.T) {
	t.Parallel()
	p, _, gate := limited(t, 1<<20)
	gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.HasSuffix(w.Subject, ".stuck") {
			return store.ErrUnavailable
		}
		return nil
	}})
	for n, connection := range []string{"stuck", "a", "stuck", "b"} {
		h := hold(fmt.Sprint(n), "["+element(n, 100)+"]")
		h.page.Connection, h.next.Connection = connection, connection
		p.leftPages.add(h)
	}
	if p.storeLeft(context.Background()) {
		t.Error("all are said to be stored")
	}
	if left := p.leftPages.list(); len(left) != 2 || left[0].page.Connection != "stuck" ||
		left[1].page.Connection != "stuck" {
		t.Errorf("%d pages are left", len(left))
	}
	gate.Store(nil)
	if !p.storeLeft(context.Background()) || len(p.leftPages.list()) != 0 {
		t.Errorf("%d pages are left", len(p.leftPages.list()))
	}
}

// The parts of any page, however it is broken, hold the elements of the page.
func FuzzParts(f *testing.F) {
	f.Add([]byte("["+element(1, 100)+","+element(2, 100)+"]"), 220)
	f.Add([]byte(`[1,2,{"Topic":"PARTS.ORDER","Message":"],["}, "a`), 20)
	f.Add([]byte(`<html>`), 3)
	f.Add([]byte(`<ArrayOfNotificationMessage><NotificationMessage><Topic>PARTS.ORDER</Topic></NotificationMessage> `+
		`<NotificationMessage><Topic>PARTS.ORDER</Topic></NotificationMessage></ArrayOfNotificationMessage>`), 90)
	f.Fuzz(func(t *testing.T, body []byte, room int) {
		if len(body) > 1<<12 || !(audatex.Page{Body: body}).Carried() {
			return
		}
		room = 8 + max(room, 0)%4096
		want := audatex.ReadContents(audatex.Page{Body: body})
		h := newUnstoredPage(store.Page{PollID: "p", Body: body}, want, 0)
		var got []audatex.Notification
		for parts := 0; ; parts++ {
			if parts > len(want.List)+1 {
				t.Fatalf("more than %d parts", len(want.List))
			}
			if h.next.Body == nil || len(h.next.Body) > room {
				h.cut(room)
			}
			switch {
			case h.next.Size > 0:
				got = append(got, audatex.Notification{Raw: want.List[min(h.from, len(want.List)-1)].Raw})
			case want.Foreign:
				got = append(got, want.List...)
			default:
				if len(h.next.Body) > room {
					t.Fatalf("a part has %d bytes, and there is room for %d", len(h.next.Body), room)
				}
				got = append(got, audatex.ReadContents(audatex.Page{Body: h.next.Body}).List...)
			}
			if !h.next.More {
				break
			}
			h.stored(1)
		}
		if want.Foreign {
			return
		}
		// What separates elements is no part of them, and stands elsewhere where an element has no end.
		begin, _, end := want.Frame()
		joined := func(list []audatex.Notification) (all []byte) {
			for _, n := range list {
				all = append(all, bytes.Trim(n.Raw, "], \t\r\n")...)
			}
			if !want.XML {
				return all
			}
			return bytes.ReplaceAll(bytes.ReplaceAll(all, []byte(begin), nil), []byte(end), nil)
		}
		if a, b := joined(want.List), joined(got); !bytes.Equal(a, b) {
			t.Fatalf("room %d: %q became %q", room, a, b)
		}
	})
}
