package signal_test

import (
	"testing"

	"github.com/audatex-relay/relay/internal/signal"
)

func TestSeveralSignalsCountOnce(t *testing.T) {
	t.Parallel()
	s := signal.New()
	for range 3 {
		s.Set() // never blocks
	}
	<-s
	select {
	case <-s:
		t.Fatal("it is set twice")
	default:
	}
	s.Set()
	<-s
}
