package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRedactedURLShowsWhereButNoToken(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://bms.example":                               "https://bms.example",
		"https://bms.example/":                              "https://bms.example/",
		"https://bms.example:8443/hooks/audatex":            "https://bms.example:8443/hooks/audatex",
		"https://bms.example/api/v2/parts-orders/events":    "https://bms.example/api/v2/parts-orders/events",
		"https://BMS.example/API/Webhooks/":                 "https://BMS.example/API/Webhooks/",
		"https://bms.example//hook":                         "https://bms.example//hook",
		"https://bms.example/hooks/hunter2":                 "https://bms.example/hooks/[redacted]",
		"https://bms.example/hooks/kitten/orders":           "https://bms.example/hooks/[redacted]/orders",
		"https://hooks.example/services/T00/B00/XXXXXXXX":   "https://hooks.example/services/[redacted]/[redacted]/[redacted]",
		"https://bms.example/hook/2f1e3c9a-6a64-4a2c":       "https://bms.example/hook/[redacted]",
		"https://bms.example/12-34-56-78":                   "https://bms.example/[redacted]",
		"https://bms.example/hook;token=abc":                "https://bms.example/[redacted]",
		"https://bms.example/hook%2Fabc":                    "https://bms.example/[redacted]",
		"https://bms.example/bot123:ABC/send":               "https://bms.example/[redacted]/[redacted]",
		"https://bms.example/" + strings.Repeat("hook-", 9): "https://bms.example/[redacted]",
		"https://bms.example/hook?":                         "https://bms.example/hook",
		"https://bms.example/hook?token=abc&site=leeds":     "https://bms.example/hook?[redacted]",
		"https://bms.example/hook?abc":                      "https://bms.example/hook?[redacted]",
		"https://bms.example/hook#abc":                      "https://bms.example/hook#[redacted]",
		"https://user:abc@bms.example/hook":                 "https://[redacted]@bms.example/hook",
		"https://abc@bms.example/hook":                      "https://[redacted]@bms.example/hook",
		"http://[2001:db8::1]:8080/hook?abc":                "http://[2001:db8::1]:8080/hook?[redacted]",
		"https://bms.example/%zz?token=abc":                 "[redacted]",
		"abc":                                               "[redacted]",
		"":                                                  "[redacted]",
	} {
		if got := RedactURL(raw); got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
	}
}

// Wherever in path or query a token stands, the URL that is shown and the text that is left of an
// echo do not hold it.
func TestNoTokenIsLeftOfAURL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := "tok" + rapid.StringMatching(`[A-Za-z0-9_~!$'()*,=:@.-]{8,24}`).Draw(t, "token")
		form := rapid.SampledFrom([]string{
			"https://h.example/%s", "https://h.example/hook/%s/x", "https://h.example/hook/x%sx",
			"https://h.example/a;t=%s/b",
			"https://h.example/hook?%s",
			"https://h.example/hook?t=%s", "https://h.example/hook?t=%s&u=1", "https://h.example/hook?u=1;t=x%s",
			"https://h.example/hook?%s=1", "https://%s@h.example/",
		}).Draw(t, "form")
		raw := fmt.Sprintf(form, token)
		if shown := RedactURL(raw); strings.Contains(shown, token) {
			t.Fatalf("%s is shown as %s", raw, shown)
		}
		echo := "Cannot POST " + strings.TrimPrefix(raw, "https://h.example")
		for _, secret := range URLSecrets(raw) {
			echo = strings.ReplaceAll(echo, secret, RedactionMark)
		}
		if strings.Contains(echo, token) {
			t.Fatalf("of %s is left %s", raw, echo)
		}
	})
}

func TestURLSecretsAreKnownAsWrittenAndDecoded(t *testing.T) {
	t.Parallel()
	got := URLSecrets("https://h.example/hooks/p%40th?token=a%2Bb+c&bare&empty=&site=leeds")
	want := []string{"token=a%2Bb+c&bare&empty=&site=leeds", "a%2Bb+c", "p%40th", "a+b c", "empty", "leeds", "p@th",
		"bare"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := URLSecrets("https://h.example/hooks/v1"); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestRedactionMarkIsFoundAlsoEncoded(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		"https://h.example/[redacted]": true, "https://h.example/hook?[Redacted]": true,
		"https://h.example/%5Bredacted%5D": true, "https://h.example/%5bredacted]": true,
		"https://h.example/%255Bredacted%255D": true, "https://h.example/redacted": false,
		"https://h.example/[x]": false,
		"":                      false,
	} {
		if IsRedacted(raw) != want {
			t.Errorf("%q: %t", raw, !want)
		}
	}
}
