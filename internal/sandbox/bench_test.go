package sandbox_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// sink takes a response without a network: what remains is the sandbox's own cost.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}
func (s *sink) FlushError() error           { return nil }

func BenchmarkHandler(b *testing.B) {
	v := start(b, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	o := v.create("4711", sandbox.OrderOptions{})
	for name, path := range map[string]string{
		"order":     "/partsorders/" + o.ID,
		"emptyPoll": "/site/subscriptions/" + sub + "/notifications",
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), "GET", api+path, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w := &sink{header: http.Header{}}
				for pb.Next() {
					v.Handler().ServeHTTP(w, r.Clone(b.Context()))
				}
			})
		})
	}
	b.Run("order over loopback", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if got, err := v.try("GET", api+"/partsorders/"+o.ID, token, nil, ""); err != nil || got.status != 200 {
					b.Errorf("%d %v", got.status, err)
				}
			}
		})
	})
}

func BenchmarkCreateOrder(b *testing.B) {
	v := start(b, sandbox.Config{})
	token := v.site("4711")
	v.subscribe(sandbox.Site, token)
	b.ReportAllocs()
	for b.Loop() {
		v.create("4711", sandbox.OrderOptions{})
	}
}
