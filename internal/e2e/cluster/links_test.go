package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// links are what stands between the relays and the NATS servers: every relay has a way of its own
// to every server.
type links struct {
	t     *testing.T
	proxy [replicas][nodes]*toxiproxy.Proxy
}

func newLinks(t *testing.T, b *bus) *links {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	l := &links{t: t}
	for r := range l.proxy {
		for n := range l.proxy[r] {
			p := toxiproxy.NewProxy(server, fmt.Sprintf("relay %d to n%d", r, n), "127.0.0.1:0",
				fmt.Sprintf("127.0.0.1:%d", b.nodes[n].client))
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Stop)
			l.proxy[r][n] = p
		}
	}
	return l
}

// urls are a relay's addresses of the servers.
func (l *links) urls(replica int) string {
	list := make([]string, 0, nodes)
	for _, p := range l.proxy[replica] {
		list = append(list, "nats://"+p.Listen)
	}
	return strings.Join(list, ",")
}

// cut breaks all connections of a relay's and refuses new ones.
func (l *links) cut(replica int) {
	for _, p := range l.proxy[replica] {
		p.Stop()
	}
}

// mend undoes cut.
func (l *links) mend(replica int) {
	l.t.Helper()
	for _, p := range l.proxy[replica] {
		harness.Eventually(l.t, "a link is mended", func() string { // its port may be in another's hands for a moment
			if err := p.Start(); err != nil {
				return err.Error()
			}
			return ""
		})
	}
}

// hurt puts something in a relay's way, in both directions: "latency" {latency, jitter in ms}, or
// "timeout" {timeout: 0}, which lets nothing through and closes nothing, as a firewall does that
// has lost its state.
func (l *links) hurt(replica int, kind, attributes string) {
	l.t.Helper()
	for _, p := range l.proxy[replica] {
		for _, direction := range []string{"upstream", "downstream"} {
			toxic := fmt.Sprintf(`{"name":"%s-%s","type":%q,"stream":%q,"attributes":%s}`, kind, direction,
				kind, direction, attributes)
			if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
				l.t.Fatalf("%s: %v", toxic, err)
			}
		}
	}
}

// heal takes everything out of a relay's way.
func (l *links) heal(replica int) {
	for _, p := range l.proxy[replica] {
		p.Toxics.ResetToxics(context.Background())
	}
}
