package sender_test

import (
	"bytes"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

// BenchmarkSend measures what an attempt costs above the plain post that it uses, including the
// receiver. cpu-ns/op is the CPU time of the process. On a machine that others use too, it is more
// reliable than the elapsed time.
func BenchmarkSend(b *testing.B) {
	srv := receiver(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	payload := bytes.Repeat([]byte("x"), 3000)
	secrets := []signature.Secret{signature.NewSecret()}
	b.Run("sender", func(b *testing.B) {
		s := newSender(b, nil)
		r := request(srv.URL)
		r.Body, r.Secrets = payload, secrets
		b.ReportAllocs()
		b.SetParallelism(16)
		defer reportCPU(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if a := s.Send(b.Context(), r); a.Outcome != sender.Success {
					b.Errorf("%+v", a)
					return
				}
			}
		})
	})
	b.Run("plain", func(b *testing.B) {
		t := &http.Transport{MaxIdleConnsPerHost: 256}
		defer t.CloseIdleConnections()
		c := &http.Client{Transport: t}
		b.ReportAllocs()
		b.SetParallelism(16)
		defer reportCPU(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				resp, err := c.Post(srv.URL, "application/json", bytes.NewReader(payload))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	})
}

func reportCPU(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	begin := used()
	return func() { b.ReportMetric(float64(used()-begin)/float64(b.N), "cpu-ns/op") }
}
