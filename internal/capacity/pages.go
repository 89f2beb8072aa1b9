package capacity

// Bounds of a page of the log that is read for one callback.
const (
	PageEvents = 512     // at most
	PageBytes  = 1 << 20 // of bodies that are kept; one body is kept however large it is
	// FirstEvents is how many events the first page has at most. The sizes of its bodies decide how many the next has.
	FirstEvents = 32
)

// NextPage returns how many events the next page of the log may have that one callback reads, and how many bytes of
// their bodies it may keep. BodySize is the average size of the bodies in the callback's page before: those of others
// may be larger or smaller. It is 0 if there was no such page; then the largest of the last bodies that anybody has
// read decides.
func NextPage(memory *Memory, bodies *Bodies, bodySize int) (events, bytes int) {
	bytes = min(PageBytes, memory.Part())
	if bodySize == 0 {
		return bodies.eventsIn(int64(bytes), FirstEvents), bytes
	}
	return min(max(bytes/bodySize, 1), PageEvents), bytes
}
