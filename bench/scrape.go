package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

const (
	scrapedCallbacks = 1000
	// mostScraped bounds the series of a scrape for each connection: here each is in trouble.
	mostScraped = 2.5
)

// measureScrape counts the series and bytes of a scrape with ten thousand connections, all of them without a token and
// so in trouble, and a thousand callbacks.
func (b *bench) measureScrape() {
	dir := filepath.Join(b.dir, "scrape")
	nowhere := []string{
		"RELAY_AUDATEX_BASE_URL=http://127.0.0.1:1/api", "RELAY_AUDATEX_AUTH_URL=http://127.0.0.1:1/consent",
		"RELAY_AUDATEX_TOKEN_URL=http://127.0.0.1:1/token",
	}
	p := b.start(dir, nowhere...)
	for c := range scrapedCallbacks {
		must(p.put(fmt.Sprint("/v1/callbacks/scraped-", c), map[string]any{"url": b.receiver.base + "/none"}))
	}
	must(p.stop(syscall.SIGTERM))
	s, closing := b.open(dir)
	for i := range b.sizes.connections {
		id := fmt.Sprint("scraped-", i)
		get(s.Connections.Create(b.ctx, id, relay.Connection{
			ID: id, Level: relay.LevelSite, Site: id, Generation: relay.NewID(), CreatedAt: time.Now(),
			UpdatedAt: time.Now(),
		}))
	}
	closing()

	p = b.start(dir, nowhere...)
	defer end(func() error { return p.stop(syscall.SIGTERM) })
	b.pass(time.Minute) // each connection gets its first turn within half of it
	began := time.Now()
	body := get(fetch(p.at))
	took := time.Since(began)
	series := 0
	for line := range bytes.Lines(body) {
		if line[0] != '#' {
			series++
		}
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	get(w.Write(body))
	must(w.Close())
	most := int(mostScraped*float64(b.sizes.connections)) + 6*scrapedCallbacks + 1000
	say("scrape_connections", "%d", b.sizes.connections)
	say("scrape_callbacks", "%d", scrapedCallbacks)
	say("scrape_series", "%d (at most %d: %s)", series, most, verdict(series <= most))
	say("scrape_kib", "%d, %d compressed", len(body)>>10, packed.Len()>>10)
	say("scrape_ms", "%.0f", float64(took.Microseconds())/1000)
}
