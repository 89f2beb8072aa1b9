package natsd

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// mistakesEvery is how often a kind of mistake gets a line while it goes on.
const mistakesEvery = time.Minute

// mistakes tells the log what clients do wrong: the first of a kind at once, and while it goes on one line a minute with how many there
// were. A client may send what it must not as fast as its network lets it.
type mistakes struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[string]*mistake // those that had a line within the last minute
	ended bool
}

// mistake is a kind since its last line.
type mistake struct {
	more   int
	latest string
	next   *time.Timer
}

func newMistakes(log *slog.Logger) *mistakes {
	return &mistakes{log: log, kinds: map[string]*mistake{}}
}

func (m *mistakes) tell(kind, said string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	if k := m.kinds[kind]; k != nil {
		k.more++
		k.latest = said
		return
	}
	m.kinds[kind] = &mistake{next: time.AfterFunc(mistakesEvery, func() { m.sum(kind) })}
	m.log.Warn("nats: " + said)
}

// sum writes the line that a kind is due after a minute. A kind without more is over: its next gets its line at once.
func (m *mistakes) sum(kind string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.kinds[kind]
	switch {
	case m.ended:
	case k.more == 0:
		delete(m.kinds, kind)
	default:
		m.write(k)
		k.more = 0
		k.next.Reset(mistakesEvery)
	}
}

// end writes what is still due; nothing is written after it.
func (m *mistakes) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.ended = true
	for _, k := range m.kinds {
		k.next.Stop()
		if k.more > 0 {
			m.write(k)
		}
	}
}

func (m *mistakes) write(k *mistake) {
	m.log.Warn(fmt.Sprintf("nats: %d more of the kind, the latest: %s", k.more, k.latest))
}
