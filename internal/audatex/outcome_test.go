package audatex

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestOutcomeOf(t *testing.T) {
	t.Parallel()
	wrapped := fmt.Errorf("reading: %w", &Error{Outcome: Forbidden, CorrelationID: "c", RetryAfter: time.Second})
	for _, tt := range []struct {
		err  error
		want Outcome
	}{
		{nil, Done},
		{wrapped, Forbidden},
		{fmt.Errorf("x: %w", &ConsentRequiredError{Connection: "leeds"}), Unauthorised},
		{context.Canceled, Unavailable},
		{io.EOF, Unavailable},
	} {
		if got := OutcomeOf(tt.err); got != tt.want {
			t.Errorf("OutcomeOf(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
	if CorrelationIDOf(wrapped) != "c" || RetryAfterOf(wrapped) != time.Second {
		t.Error("correlation id or time is not found in a wrapped error")
	}
	if CorrelationIDOf(io.EOF) != "" || RetryAfterOf(io.EOF) != 0 {
		t.Error("a foreign error has a correlation id or time")
	}
	if got := Outcome(99).String(); got != "outcome-99" {
		t.Errorf("unknown outcome prints as %q", got)
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, body, want string }{
		{"plain", "Unauthorised. Please provide valid user credentials.",
			"Unauthorised. Please provide valid user credentials."},
		{"lines", "\r\n one\n\n\ttwo \x00\x1b[31m\u202ethree\r\n", "one two [31mthree"},
		{"not UTF-8", "a\xff\xfeb", "ab"},
		{"the token", "bad token access-token-of-the-test!", "bad token [redacted]!"},
		{"empty", " \n", ""},
		{"long", strings.Repeat("ä", 500), strings.Repeat("ä", 200)},
		{"huge", strings.Repeat(" ", 1<<20) + "x", ""},
	} {
		if got := message([]byte(tt.body), testToken); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestErrorUnwrapsAndNamesEverything(t *testing.T) {
	t.Parallel()
	e := &Error{Operation: OpPoll, Outcome: Unavailable, Status: 503, Message: "busy", CorrelationID: "abc",
		err: io.ErrUnexpectedEOF}
	if !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Error("cause is lost")
	}
	const want = "audatex poll: unavailable (status 503): busy: unexpected EOF [correlation_id abc]"
	if e.Error() != want {
		t.Errorf("%q, want %q", e, want)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	const text = "hush-hush"
	type holder struct {
		Public  relay.Secret
		private relay.Secret
	}
	s := relay.NewSecret(text)
	h := holder{s, s}
	var log logBuffer
	log.logger().Info("x", slog.Any("secret", s), slog.Any("holder", h), slog.Any("pointer", &h))
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("secret", s), slog.Any("holder", h))
	doc, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(doc)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, h) +
			fmt.Sprintf(verb, []relay.Secret{s})
	}
	if strings.Contains(out, text) || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", text)) {
		t.Errorf("secret printed: %s", out)
	}
	if !strings.Contains(out, relay.Redacted) {
		t.Errorf("no sign of a secret: %s", out)
	}
	if s.Reveal() != text || !s.Equal(relay.NewSecret(text)) || s.Empty() || !(relay.Secret{}).Empty() ||
		(relay.Secret{}).Reveal() != "" {
		t.Error("secret is not what it was made of")
	}
	_ = h.private
}
