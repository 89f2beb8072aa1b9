// Command feed reads the relay's feed of events, for a program that cannot be called. It handles each event at least
// once, those of an order in their order, and continues where it stopped, with the standard library only. Begin reading
// at handle, which is your part; the same in C#, Node, PHP and Python is beside this file.
//
//	RELAY_URL=https://relay.example.com RELAY_KEY=… go run ./examples/feed [feed-next]
//
//	feed-next is the file that keeps where the program is in the feed
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// page is a response of GET /v1/events.
type page struct {
	Items []event
	Next  string
}

// event is the part of an event that this program uses; api/schemas has all of it.
type event struct {
	Type, Site, Subject, Sequence string
	Data                          struct {
		Order struct{ OrderReference, Status string }
	}
}

// handle is your part: store the event if its sequence is above that of its subject (docs/receiving.md has the
// statement). It gets the events of an order in their order. If the program ends before next is stored, they come
// again.
func handle(e event) error {
	if !strings.HasPrefix(e.Type, "audatex.parts.order.") {
		return nil
	}
	_, err := fmt.Println(e.Type, e.Site, e.Data.Order.OrderReference, e.Data.Order.Status)
	return err
}

// refused is a response that is not 200.
type refused struct {
	status     int
	retryAfter time.Duration
	body       string
}

func (r *refused) Error() string { return fmt.Sprintf("the relay answers %d %s", r.status, r.body) }

var client = http.Client{Timeout: time.Minute}

// read returns the next page. It waits for half a minute if there is no event yet.
func read(after string) (p page, err error) {
	query := url.Values{"waitSeconds": {"30"}}
	if after != "" {
		query.Set("after", after)
	}
	req, err := http.NewRequest(http.MethodGet, os.Getenv("RELAY_URL")+"/v1/events?"+query.Encode(), nil)
	if err != nil {
		return page{}, err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("RELAY_KEY"))
	res, err := client.Do(req)
	if err != nil {
		return page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return page{}, err
	case res.StatusCode != http.StatusOK:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return page{}, &refused{res.StatusCode, time.Duration(seconds) * time.Second, string(body)}
	}
	err = json.Unmarshal(body, &p)
	return p, err
}

// step reads and handles one page, and stores where the next one begins.
func step(file, after string) (next string, err error) {
	p, err := read(after)
	if err != nil {
		return "", err
	}
	for _, e := range p.Items {
		if err := handle(e); err != nil {
			return "", fmt.Errorf("event %s of order %s: %w", e.Sequence, e.Subject, err)
		}
	}
	return p.Next, save(file, p.Next)
}

func save(name, next string) error {
	file, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = file.WriteString(next)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func main() {
	var arg [2]string
	copy(arg[:], os.Args)
	file := cmp.Or(arg[1], "feed-next")
	stored, err := os.ReadFile(file) // if there is none: begin with the oldest event that is kept
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	after := string(stored)
	for {
		next, err := step(file, after)
		if err == nil {
			after = next
			continue
		}
		log.Print(err) // no response, or an event that could not be handled: the same page again
		wait := 5 * time.Second
		if r, ok := errors.AsType[*refused](err); ok {
			wait = cmp.Or(r.retryAfter, wait)
			switch r.status {
			case http.StatusUnauthorized, http.StatusForbidden:
				os.Exit(1) // the key is wrong, revoked or expired
			case http.StatusGone:
				after = "" // the log no longer has what follows: read GET /v1/orders as well
			}
		}
		time.Sleep(wait)
	}
}
