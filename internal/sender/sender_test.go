package sender_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

func TestSendCarriesTheSignedEvent(t *testing.T) {
	t.Parallel()
	older := signature.NewSecret()
	type seen struct {
		header http.Header
		method string
		uri    string
		host   string
		proto  string
		body   []byte
		length int64
	}
	got := make(chan seen, 1)
	srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read body: %v", err)
		}
		got <- seen{r.Header, r.Method, r.RequestURI, r.Host, r.Proto, b, r.ContentLength}
		w.WriteHeader(http.StatusNoContent)
	})
	s := newSender(t, nil)
	r := request(srv.URL + "/hook?site=a%20b")
	r.Secrets = append(r.Secrets, older)
	r.ContentType = "application/cloudevents+json"
	r.Auth = sender.Bearer("tok-123456")
	r.Headers = map[string]string{
		"x-tenant": "north", "authorization": "Basic other", // auth goes before it
		"webhook-id": "forged", "Content-Type": "text/plain", "user-agent": "forged", "Host": "forged.example",
		"Connection": "close", "Content-Length": "1", "Idempotency-Key": "same",
	}
	a := s.Send(t.Context(), r)
	if a.Outcome != sender.Success || a.Status != 204 || a.Error != "" || a.Excerpt != "" {
		t.Fatalf("attempt %+v", a)
	}
	if a.RemoteAddr.String() != srv.Listener.Addr().String() || a.Duration <= 0 {
		t.Errorf("remote %v after %v, want %v", a.RemoteAddr, a.Duration, srv.Listener.Addr())
	}
	g := <-got
	if g.method != "POST" || g.uri != "/hook?site=a%20b" || g.proto != "HTTP/1.1" ||
		g.host != srv.Listener.Addr().String() || g.length != int64(len(r.Body)) || !bytes.Equal(g.body, r.Body) {
		t.Errorf("request %+v", g)
	}
	for _, s := range []signature.Secret{testSecret, older} {
		if judge, err := reference.NewWebhook(s.Reveal()); err != nil || judge.Verify(g.body, g.header) != nil {
			t.Errorf("the signature cannot be verified: %q", g.header.Get("webhook-signature"))
		}
	}
	want := map[string]string{
		"Content-Type": "application/cloudevents+json", "User-Agent": "audatex-relay/test", "Webhook-Id": "evt_1",
		"Webhook-Timestamp": strconv.FormatInt(a.At.Unix(), 10), "Authorization": "Bearer tok-123456",
		"X-Tenant":       "north",
		"Content-Length": strconv.Itoa(len(r.Body)),
	}
	g.header.Del("Webhook-Signature")
	for name, value := range want {
		if v := g.header.Values(name); len(v) != 1 || v[0] != value {
			t.Errorf("%s: %q, want %q", name, v, value)
		}
		g.header.Del(name)
	}
	if len(g.header) != 0 {
		t.Errorf("headers nobody asked for: %v", g.header)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int32
	other := receiver(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	s := newSender(t, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			if len(r.Cookies()) != 0 {
				t.Error("a cookie came back")
			}
			http.Redirect(w, r, other.URL, status)
		})
		for range 2 {
			if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != sender.Refused || a.Status != status {
				t.Errorf("%d: %+v", status, a)
			}
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("followed %d redirects", n)
	}
}

func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const token, password, value = "tok-verysecret-1", "hunter2-hunter2", "header-secret-9"
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		plain := ""
		if _, p, ok := r.BasicAuth(); ok {
			plain = p
		}
		pad := strings.Repeat("p", 240) // so that one secret lies over the end of the excerpt
		fmt.Fprintf(w, "%s ", r.RequestURI)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Header.Get("Authorization"),
			strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), plain, r.Header.Get("X-Key"), pad[:40])
		fmt.Fprint(w, testSecret.Reveal(), pad)
	}
	srv := receiver(t, echo)
	s := newSender(t, nil)
	targets := []string{srv.URL + "/hook/tok-in-path-77", srv.URL + "/hook?t=tok-in-path-77",
		srv.URL + "/hook?tok-in-path-77", "http://127.0.0.1:1/tok-in-path-77", "https://10.0.0.1/tok-in-path-77",
		"https://user:tok-in-path-77@x/", "http://a b/tok-in-path-77",
		"http://" + rawReceiver(t, answering(token+"\r\n\r\n"+value))}
	for _, auth := range []sender.Auth{sender.Bearer(token), sender.Basic("user", password), {}} {
		for _, target := range targets {
			r := request(target)
			r.Auth = auth
			r.Headers = map[string]string{"X-Key": value, "Authorization": "Token " + token}
			a := s.Send(t.Context(), r)
			shown := fmt.Sprintf("%+v %#v %v %+v %#v %d %s", a, a, r, r, r, r, auth)
			for _, leak := range []string{token, password, value, testSecret.Reveal()[6:], "tok-in-path-77",
				base64.StdEncoding.EncodeToString([]byte("user:" + password))} {
				if strings.Contains(shown, leak) {
					t.Errorf("%s: %q is in %s", target, leak, shown)
				}
			}
			if a.Outcome == sender.Success || a.Error == "" {
				t.Errorf("%+v", a)
			}
		}
	}
}
