package roster

// Apart runs f on a goroutine of its own and waits for its end. A runner waits most of its life, and there may be ten
// thousand: the stack that a call to the vendor or the store needs goes with that goroutine, and the runner's own stays small.
func Apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}
