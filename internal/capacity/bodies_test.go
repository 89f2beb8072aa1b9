package capacity

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// Whatever clients do, bodies stay within their bound but for one of each client, and nothing is left when all have
// ended.
func TestBodiesOfAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := NewBodies(1000)
		var all []Reservation
		count := map[string]int{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				i := rapid.IntRange(0, len(all)-1).Draw(t, "ends")
				all[i].Free()
				count[all[i].client]--
				all = append(all[:i], all[i+1:]...)
				continue
			}
			client := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "client")
			b.NoteSize(100)
			room := b.NewReservation(client)
			if !room.Reserve() {
				if count[client] == 0 {
					t.Fatal("a client has no body at all")
				}
				continue
			}
			room.Correct(100)
			all = append(all, room)
			count[client]++
		}
		if b.used > 1000+3*100 {
			t.Fatalf("%d of 1000 bytes are taken", b.used)
		}
		for _, one := range all {
			one.Free()
		}
		if b.used != 0 || len(b.clients) != 0 {
			t.Fatalf("left: %d, %v", b.used, b.clients)
		}
	})
}

// One client's bodies leave room for those of others.
func TestBodiesOfOneClientLeaveRoom(t *testing.T) {
	t.Parallel()
	b := NewBodies(64 << 20)
	b.NoteSize(1 << 20)
	for c, want := range []int{32, 16, 8} {
		got := 0
		for range 100 {
			if room := b.NewReservation(fmt.Sprint(c)); room.Reserve() {
				got++
			}
		}
		if got != want {
			t.Errorf("client %d has %d bodies, want %d", c, got, want)
		}
	}
}
