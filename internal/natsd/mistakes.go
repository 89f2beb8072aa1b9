package natsd

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// mistakesEvery is how often a kind of mistake is logged while it continues.
const mistakesEvery = time.Minute

// mistakes logs what clients do wrong: the first of a kind at once, and while it continues one line
// a minute with their number. A client can send invalid requests as fast as its network allows.
type mistakes struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[string]*mistake // those that were logged within the last minute
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

func (m *mistakes) add(kind, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	if k := m.kinds[kind]; k != nil {
		k.more++
		k.latest = text
		return
	}
	m.kinds[kind] = &mistake{next: time.AfterFunc(mistakesEvery, func() { m.sum(kind) })}
	m.log.Warn("nats: " + text)
}

// sum writes a kind's line after a minute. If there was no further mistake, the kind is over: its
// next one is logged at once.
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

// end writes the pending lines. Nothing is written after it.
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
