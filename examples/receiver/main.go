// Command receiver is a complete receiver of the relay's callbacks: it verifies each delivery, stores what is new,
// responds at once, and works later. It uses the standard library and the public library of Standard Webhooks, and
// nothing of the relay. Begin reading at handle, which is your part; the same in C#, Node, PHP and Python is beside
// this file.
//
//	WEBHOOK_SECRET=whsec_… go run ./examples/receiver [127.0.0.1:3000 [receiver-data]]
//
//	WEBHOOK_SECRET may hold several secrets, separated by spaces: the new and the old one while they are exchanged
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	path        = "/hooks/audatex"
	largestBody = 16 << 20
)

// event is the part of an event that this receiver uses; api/schemas has all of it.
type event struct {
	Type, Site, Subject, Sequence string
	Test                          bool
	Data                          struct {
		Order struct{ OrderReference, Status string }
	}
}

// handle is your part: it brings the order in your system to this state. It may be called twice for one event.
func handle(e event) error {
	_, err := fmt.Println(e.Type, e.Site, e.Data.Order.OrderReference, e.Data.Order.Status)
	return err
}

// receiver is the handler of deliveries.
type receiver struct {
	hooks []*standardwebhooks.Webhook // one for each secret
	store *store
	toDo  chan struct{}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, largestBody))
	if err != nil {
		http.Error(w, "larger than any event", http.StatusRequestEntityTooLarge)
		return
	}
	if !r.verify(body, req.Header) {
		http.Error(w, "not signed by the relay", http.StatusUnauthorized)
		return
	}
	var e event
	if json.Unmarshal(body, &e) != nil || e.Type == "" {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	switch {
	case e.Test: // a test of the callback: nothing happened to an order
	case !strings.HasPrefix(e.Type, "audatex.parts.order."):
		log.Println(e.Type, e.Subject) // what the relay reports of itself, if the callback asks for it
	case !orderID.MatchString(e.Subject) || !sequence.MatchString(e.Sequence):
		http.Error(w, "not an event of an order", http.StatusBadRequest)
		return
	default:
		newer, err := r.store.storeIfNewer(e, body)
		if err != nil {
			log.Print(err)
			http.Error(w, "not stored", http.StatusServiceUnavailable) // the relay sends the event again
			return
		}
		if newer {
			r.wake()
		}
	}
	// Stored, or known already. The work comes later: the relay waits for this response.
	w.WriteHeader(http.StatusNoContent)
}

var (
	orderID  = regexp.MustCompile(`^[0-9a-f-]{1,64}$`)
	sequence = regexp.MustCompile(`^[0-9]{16}$`)
)

// verify reports whether one of the signatures was made with one of the secrets, less than five minutes ago. The
// signature is of the bytes as they came.
func (r *receiver) verify(body []byte, header http.Header) bool {
	for _, hook := range r.hooks {
		if hook.Verify(body, header) == nil {
			return true
		}
	}
	return false
}

func (r *receiver) wake() {
	select {
	case r.toDo <- struct{}{}:
	default: // it is awake
	}
}

// work works on the newest event of each order that has one waiting, also on those from before a restart.
func (r *receiver) work() {
	again := time.Tick(time.Minute)
	for {
		waiting, err := r.store.waiting()
		if err != nil {
			log.Print(err)
		}
		for _, order := range waiting {
			if err := r.workOn(order); err != nil {
				log.Print(err) // this order is worked on again within a minute; the others go on
			}
		}
		select {
		case <-r.toDo:
		case <-again:
		}
	}
}

func (r *receiver) workOn(order string) error {
	e, err := r.store.read(order)
	if err != nil {
		return err
	}
	if err := handle(e); err != nil {
		return err
	}
	return r.store.worked(e)
}

func main() {
	var arg [3]string
	copy(arg[:], os.Args)
	r := &receiver{toDo: make(chan struct{}, 1)}
	for _, secret := range strings.Fields(os.Getenv("WEBHOOK_SECRET")) { // shown once, when the callback is made
		hook, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			log.Fatal("WEBHOOK_SECRET: ", err)
		}
		r.hooks = append(r.hooks, hook)
	}
	if len(r.hooks) == 0 {
		log.Fatal("WEBHOOK_SECRET has no secret: whsec_…, as shown when the callback was made")
	}
	var err error
	if r.store, err = newStore(cmp.Or(arg[2], "receiver-data")); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", cmp.Or(arg[1], "127.0.0.1:3000"))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on http://%s%s", listener.Addr(), path)
	go r.work()
	http.Handle("POST "+path, r)
	server := &http.Server{ReadTimeout: 30 * time.Second, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
