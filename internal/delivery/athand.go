package delivery

import "github.com/audatex-relay/relay/internal/capacity"

// maxAtHand bounds the bodies that one callback keeps at hand; one event is always let in.
const maxAtHand = 8 << 20

// AtHand are the events whose bodies a callback keeps until it is done with them. Who needs another one reads it from the
// log. It belongs to one goroutine.
type AtHand struct {
	memory *capacity.Memory // of all callbacks
	events map[uint64]*Event
	bytes  int
}

// Join begins to count among the callbacks that share the memory. Nothing is held before.
func (h *AtHand) Join(memory *capacity.Memory) {
	h.memory = memory
	memory.Join(1)
}

// Len returns how many there are.
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
