// Command receiver is a complete receiver of the relay's callbacks. It verifies each delivery, drops repeats, prints
// what is new, and answers at once:
//
//	WEBHOOK_SECRET=whsec_… go run ./examples/receiver
//
// It uses the standard library and the public library of Standard Webhooks, nothing of the relay.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// event is the part of an event that this receiver uses; api/schemas has all of it.
type event struct {
	Type, Site, Subject, Sequence string
	Data                          struct {
		Order struct{ OrderReference, Status string }
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:3000", "address to listen on")
	flag.Parse()
	hook, err := standardwebhooks.NewWebhook(os.Getenv("WEBHOOK_SECRET")) // shown once, when the callback is made
	if err != nil {
		log.Fatal("WEBHOOK_SECRET: ", err)
	}
	var mu sync.Mutex
	newest := map[string]string{} // by order, the highest sequence applied. In your program: a column of your database

	http.HandleFunc("POST /hooks/audatex", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
		if err != nil || hook.Verify(body, r.Header) != nil {
			http.Error(w, "not signed by the relay", http.StatusUnauthorized)
			return
		}
		var e event
		if json.Unmarshal(body, &e) != nil {
			http.Error(w, "not an event", http.StatusBadRequest)
			return
		}
		// In one transaction of your database: apply the event if its sequence is above the one stored for its
		// subject, and store the sequence. It has sixteen digits, so it compares as text. If it is not above, the
		// event is a repeat: drop it.
		mu.Lock()
		if e.Sequence > newest[e.Subject] {
			newest[e.Subject] = e.Sequence
			fmt.Println(e.Type, e.Site, e.Data.Order.OrderReference, e.Data.Order.Status)
		}
		mu.Unlock()
		w.WriteHeader(http.StatusNoContent) // any 2xx: done. Everything else is sent again, with the same webhook-id
	})
	server := &http.Server{Addr: *addr, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
