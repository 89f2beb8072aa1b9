package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/audatex-relay/relay/internal/logging"
	"github.com/audatex-relay/relay/internal/settings"
)

// signals are those that a relay that serves acts on without ending. None of them stops it, also while it starts.
type signals struct {
	came  chan os.Signal
	ended chan struct{}
	done  sync.WaitGroup
}

// takeSignals begins to take signals.
func takeSignals() *signals {
	s := &signals{came: make(chan os.Signal, 4), ended: make(chan struct{})}
	signal.Notify(s.came, syscall.SIGUSR1, syscall.SIGHUP)
	return s
}

// follow acts on signals until stop: SIGUSR1 switches debug lines on and off, SIGHUP has the files that are followed
// anyway read again at once.
func (s *signals) follow(log *logging.Log, rereads *settings.Rereads) {
	s.done.Go(func() {
		for {
			select {
			case <-s.ended:
				return
			case came := <-s.came:
				if came == syscall.SIGUSR1 {
					log.ToggleDebug()
					continue
				}
				log.Info(
					"SIGHUP: the files of administrators' tokens, of the token of /metrics and of callbacks' " +
						"authorities are read again; other settings need a restart")
				rereads.Now()
			}
		}
	})
}

func (s *signals) stop() {
	signal.Stop(s.came)
	close(s.ended)
	s.done.Wait()
}
