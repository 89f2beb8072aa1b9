package signature_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/signature"
)

// The vector that the libraries of the specification publish ("sign function works").
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorSeconds   = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func mustParse(t testing.TB, text string) signature.Secret {
	t.Helper()
	s, err := signature.ParseSecret(text)
	if err != nil {
		t.Fatalf("parse secret: %v", err)
	}
	return s
}

func headers(id, timestamp, signatures string) http.Header {
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", timestamp)
	h.Set("webhook-signature", signatures)
	return h
}

// verify verifies a callback as a receiver does, with the reference library.
func verify(secret signature.Secret, h http.Header, body []byte) error {
	ref, err := reference.NewWebhook(secret.Reveal())
	if err != nil {
		return err
	}
	return ref.Verify(body, h)
}

func TestPublishedVector(t *testing.T) {
	t.Parallel()
	secret, at := mustParse(t, vectorSecret), time.Unix(vectorSeconds, 0)
	if got := signature.Sign([]signature.Secret{secret}, vectorID, at, []byte(vectorBody)); got != vectorSignature {
		t.Errorf("signature %q, want %q", got, vectorSignature)
	}
}

func TestSignWithSeveralSecrets(t *testing.T) {
	t.Parallel()
	older, newer := signature.NewSecret(), signature.NewSecret()
	at, body := time.Now(), []byte(`{"a":1}`)
	both := signature.Sign([]signature.Secret{newer, older}, "evt_1", at, body)
	want := signature.Sign([]signature.Secret{newer}, "evt_1", at, body) + " " +
		signature.Sign([]signature.Secret{older}, "evt_1", at, body)
	if both != want {
		t.Errorf("signatures %q, want %q", both, want)
	}
	h := headers("evt_1", strconv.FormatInt(at.Unix(), 10), both)
	for name, s := range map[string]signature.Secret{"older": older, "newer": newer} {
		if err := verify(s, h, body); err != nil {
			t.Errorf("verify with the %s secret: %v", name, err)
		}
	}
	if verify(signature.NewSecret(), h, body) == nil {
		t.Error("a stranger's secret verifies the signatures")
	}
	if got := signature.Sign(nil, "evt_1", at, body); got != "" {
		t.Errorf("signed without a secret: %q", got)
	}
	if got := signature.Sign([]signature.Secret{{}}, "evt_1", at, body); got != "" {
		t.Errorf("signed with the zero secret: %q", got)
	}
}

func TestAgreesWithReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		keyBytes := rapid.SliceOfN(rapid.Byte(), signature.MinSecretBytes, signature.MaxSecretBytes).Draw(t, "key")
		text := "whsec_" + base64.StdEncoding.EncodeToString(keyBytes)
		id := rapid.StringMatching(`[a-zA-Z0-9_-]{1,200}`).Draw(t, "id")
		body := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "body")
		at := time.Now().Add( // the reference reads the clock itself
			time.Duration(rapid.IntRange(-290, 290).Draw(t, "offset")) * time.Second)

		secret, err := signature.ParseSecret(text)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		if secret.Reveal() != text {
			t.Fatalf("the secret does not come back as it was given")
		}
		ref, err := reference.NewWebhook(text)
		if err != nil {
			t.Fatalf("reference: %v", err)
		}
		theirs, err := ref.Sign(id, at, body)
		if err != nil {
			t.Fatalf("reference signs: %v", err)
		}
		ours := signature.Sign([]signature.Secret{secret}, id, at, body)
		if ours != theirs {
			t.Fatalf("ours %q, theirs %q", ours, theirs)
		}
		h := headers(id, strconv.FormatInt(at.Unix(), 10),
			signature.Sign([]signature.Secret{signature.NewSecret(), secret}, id, at, body))
		if err := ref.Verify(body, h); err != nil {
			t.Fatalf("reference refuses ours: %v", err)
		}
	})
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	encode := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	cases := []struct {
		name, text string
		want       error
	}{
		{"shortest", "whsec_" + encode(24), nil},
		{"longest", "whsec_" + encode(64), nil},
		{"too short", "whsec_" + encode(23), signature.ErrSecretLength},
		{"too long", "whsec_" + encode(65), signature.ErrSecretLength},
		{"far too long", "whsec_" + encode(1<<20), signature.ErrSecretLength},
		{"empty", "", signature.ErrSecretPrefix},
		{"no prefix", encode(32), signature.ErrSecretPrefix},
		{"private key of the asymmetric scheme", "whsk_" + encode(32), signature.ErrSecretPrefix},
		{"only the prefix", "whsec_", signature.ErrSecretLength},
		{"no padding", "whsec_" + strings.TrimRight(encode(32), "="), signature.ErrSecretBase64},
		{"url alphabet", "whsec_" + base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 32)),
			signature.ErrSecretBase64},
		{"line break", "whsec_" + encode(24) + "\n", signature.ErrSecretBase64},
		{"space", "whsec_ " + encode(24), signature.ErrSecretBase64},
		{"stray bits", "whsec_" + encode(25)[:33] + "z==", signature.ErrSecretBase64},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := signature.ParseSecret(c.text)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err != nil && !s.IsZero() {
				t.Error("a refused text gave a secret")
			}
			if err == nil && s.Reveal() != c.text {
				t.Error("the secret does not come back as it was given")
			}
		})
	}
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	a, b := signature.NewSecret(), signature.NewSecret()
	if a.Equal(b) || a.Equal(signature.Secret{}) || !a.Equal(mustParse(t, a.Reveal())) ||
		!(signature.Secret{}).Equal(signature.Secret{}) {
		t.Error("Equal does not tell secrets apart")
	}
	if n := len(a.Reveal()); n != len("whsec_")+44 {
		t.Errorf("a new secret has %d characters", n)
	}
	if (signature.Secret{}).Reveal() != "" {
		t.Error("the zero secret reveals something")
	}
}

// Every way in which a secret may slip out by accident, also through a struct that holds one in an
// unexported field.
func TestSecretIsRedacted(t *testing.T) {
	t.Parallel()
	keyBytes := bytes.Repeat([]byte("sekret!!"), 3)
	text := "whsec_" + base64.StdEncoding.EncodeToString(keyBytes)
	secret := mustParse(t, text)
	signature.Sign([]signature.Secret{secret}, "id", time.Now(), nil)
	type holder struct {
		Name   string
		secret signature.Secret
		Public signature.Secret
		List   []signature.Secret
	}
	h := holder{"h", secret, secret, []signature.Secret{secret}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%t", "%p", "%T"} {
		fmt.Fprintf(&out, verb+"\n", secret)
		fmt.Fprintf(&out, verb+"\n", &secret)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "secret", secret, "holder", h, "pointer", &h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "secret", secret, "holder", h, "pointer", &h)
	out.WriteString(secret.String())
	printed := out.String()
	decimal := strings.Trim(fmt.Sprint(keyBytes[:8]), "[]")
	for _, leak := range []string{text, text[6:], "sekret", fmt.Sprintf("%x", keyBytes[:8]),
		fmt.Sprintf("%X", keyBytes[:8]), decimal, "0x73, 0x65"} {
		if strings.Contains(printed, leak) {
			t.Errorf("the secret was printed as %q", leak)
		}
	}
	if _, err := json.Marshal(secret); err == nil {
		t.Error("a secret was encoded as JSON")
	}
	if _, err := json.Marshal(h.List); err == nil {
		t.Error("a list of secrets was encoded as JSON")
	}
}

func TestSignConcurrently(t *testing.T) {
	t.Parallel()
	secret := mustParse(t, vectorSecret)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				body := []byte(strconv.Itoa(rand.Int()))
				at := time.Unix(rand.Int64N(1e10), 0)
				ref, err := reference.NewWebhook(vectorSecret)
				if err != nil {
					t.Error(err)
					return
				}
				want, err := ref.Sign("id", at, body)
				if err != nil {
					t.Error(err)
					return
				}
				if got := signature.Sign([]signature.Secret{secret}, "id", at, body); got != want {
					t.Errorf("%q, want %q", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzParseSecret(f *testing.F) {
	f.Add(vectorSecret)
	f.Add("whsec_")
	f.Add("whsec_\n" + vectorSecret[6:])
	f.Add("whsec_" + strings.Repeat("A", 88))
	f.Fuzz(func(t *testing.T, text string) {
		secret, err := signature.ParseSecret(text)
		if err != nil {
			if !secret.IsZero() {
				t.Error("a refused text gave a secret")
			}
			return
		}
		if secret.Reveal() != text {
			t.Errorf("%q comes back as %q", text, secret.Reveal())
		}
		ref, err := reference.NewWebhook(text)
		if err != nil {
			t.Fatalf("the reference refuses %q: %v", text, err)
		}
		want, err := ref.Sign("id", time.Unix(1, 0), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := signature.Sign([]signature.Secret{secret}, "id", time.Unix(1, 0), nil); got != want {
			t.Errorf("%q signs as %q, reference %q", text, got, want)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 3000)
	secrets := []signature.Secret{signature.NewSecret()}
	at := time.Now()
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			signature.Sign(secrets, vectorID, at, body)
		}
	})
	b.Run("reference", func(b *testing.B) {
		b.ReportAllocs()
		ref, err := reference.NewWebhook(secrets[0].Reveal())
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := ref.Sign(vectorID, at, body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
