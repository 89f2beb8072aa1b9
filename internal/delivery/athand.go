package delivery

import "github.com/audatex-relay/relay/internal/capacity"

// maxAtHand is how many bytes of bodies one callback keeps at hand at most; one event is always admitted.
const maxAtHand = 8 << 20

// AtHand has the events whose bodies a callback keeps in memory until they are settled. Other events must be read from
// the log when they are sent. AtHand belongs to one goroutine.
type AtHand struct {
	memory *capacity.Memory // of all callbacks
	events map[uint64]*Event
	bytes  int
}

// Join makes the callback one of those that share the memory. It must be called before Hold.
func (h *AtHand) Join(memory *capacity.Memory) {
	h.memory = memory
	memory.Join(1)
}

// Len returns how many events there are.
func (h *AtHand) Len() int { return len(h.events) }

// Get returns the event at a position, nil if it is not at hand.
func (h *AtHand) Get(seq uint64) *Event { return h.events[seq] }

// Admits reports whether there is room for one more.
func (h *AtHand) Admits(ev *Event) bool {
	return len(h.events) == 0 || h.bytes+len(ev.Body) <= maxAtHand && h.memory.Admits(h.bytes, len(ev.Body))
}

// Hold keeps an event.
func (h *AtHand) Hold(ev *Event) {
	if h.events == nil {
		h.events = map[uint64]*Event{}
	}
	h.events[ev.Seq] = ev
	h.bytes += len(ev.Body)
	h.memory.Add(len(ev.Body))
}

// Drop forgets events.
func (h *AtHand) Drop(seqs ...uint64) {
	for _, seq := range seqs {
		if ev := h.events[seq]; ev != nil {
			delete(h.events, seq)
			h.bytes -= len(ev.Body)
			h.memory.Add(-len(ev.Body))
		}
	}
}

// DropAll forgets every event.
func (h *AtHand) DropAll() {
	for seq := range h.events {
		h.Drop(seq)
	}
}

// DropOrder forgets the events of an order.
func (h *AtHand) DropOrder(order string) {
	for seq, ev := range h.events {
		if ev.Order == order {
			h.Drop(seq)
		}
	}
}
