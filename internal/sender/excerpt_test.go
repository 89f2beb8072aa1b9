package sender

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"mime/quotedprintable"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/signature"
)

// secretive is a request with every kind of secret, and these by name as a receiver may repeat
// them.
func secretive() (r *Request, sign, proxy string, secrets map[string]string) {
	signing := signature.NewSecret()
	r = &Request{
		URL:     "https://bms.example/hooks/p4th-t0ken-77aa/orders?key=qu3ry%2Bt0ken%2F88bb",
		EventID: "leeds-1", Auth: Bearer("b3arer.t0ken_99cc"), Secrets: []signature.Secret{signing},
		Headers: map[string]string{"X-Api-Key": "h3ader/t0ken+11dd==",
			"X-Basic": "Basic " + base64.StdEncoding.EncodeToString([]byte("someone:p4ssw0rd-22ee"))},
	}
	sign = "v1,bm90IGEgcmVhbCBkaWdlc3QsIGJ1dCBhcyBsb25nPTE= v1,c2Vjb25kIHNpZ25hdHVyZSBvZiB0aGUgcm90YXRpb24hIQ=="
	proxy = "Basic " + base64.StdEncoding.EncodeToString([]byte("relay:pr0xy-p4ssw0rd"))
	return r, sign, proxy, map[string]string{
		"path": "p4th-t0ken-77aa", "query": "qu3ry+t0ken/88bb", "bearer": "b3arer.t0ken_99cc",
		"header":   "h3ader/t0ken+11dd==",
		"password": "p4ssw0rd-22ee", "basic": base64.StdEncoding.EncodeToString([]byte("someone:p4ssw0rd-22ee")),
		"signing":   signing.Reveal(),
		"signature": strings.TrimPrefix(strings.Fields(sign)[1], "v1,"), "proxy": "pr0xy-p4ssw0rd",
		"proxy's": strings.TrimPrefix(proxy, "Basic "),
	}
}

// each applies f to every byte.
func each(f func(c byte) string) func(string) string {
	return func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			b.WriteString(f(c))
		}
		return b.String()
	}
}

func format(with string) func(string) string {
	return each(func(c byte) string { return fmt.Sprintf(with, c) })
}

// escapes are the ways in which a receiver may write a secret.
var escapes = map[string]func(string) string{
	"as it is":         func(s string) string { return s },
	"upper case":       strings.ToUpper,
	"lower case":       strings.ToLower,
	"JSON":             func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"JSON \\u":         format(`\u%04x`),
	"JSON \\U":         format(`\U%08X`),
	"JavaScript \\x":   format(`\x%02X`),
	"JavaScript \\u{}": format(`\u{%x}`),
	"octal":            format(`\%03o`),
	"JSON \\/":         func(s string) string { return strings.ReplaceAll(s, "/", `\/`) },
	"JSON in JSON":     func(s string) string { return strings.ReplaceAll(format(`\u%04x`)(s), `\`, `\\`) },
	"JSON thrice":      func(s string) string { return strings.ReplaceAll(format(`\u%04x`)(s), `\`, `\\\\`) },
	"HTML":             html.EscapeString,
	"HTML decimal":     format("&#%d;"),
	"HTML hex":         format("&#x%X;"),
	"HTML padded":      format("&#x0000%x;"),
	"HTML open":        format("&#%d "),
	"HTML twice":       func(s string) string { return html.EscapeString(format("&#%d;")(s)) },
	"HTML named": strings.NewReplacer("-", "&hyphen;", "+", "&plus;", "/", "&sol;", "=", "&equals;", "_", "&lowbar;",
		".", "&period;").Replace,
	"URL":         url.QueryEscape,
	"URL whole":   format("%%%02x"),
	"URL twice":   format("%%25%02X"),
	"URL thrice":  format("%%2525%02X"),
	"URL %u":      format("%%u%04x"),
	"URL in JSON": format(`\u0025%02x`),
	"JSON in URL": format("%%5Cu%04x"),
	"HTML in URL": format("%%26%%23%d%%3B"),
	"URL in HTML": format("&#37;%02x"),
	"quoted printable": func(s string) string {
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		_, _ = w.Write([]byte(s))
		w.Close()
		return b.String()
	},
	"quoted whole":  format("=%02X"),
	"base64":        func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 within": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("a" + s + "b")) },
	"base64 of header": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(`{"X-Key":"` + s + `"}`))
	},
	"base64 for URLs": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("?>" + s)) },
	"base64 twice": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s))))
	},
	"base64 in capitals": func(s string) string {
		return strings.ToUpper(base64.StdEncoding.EncodeToString([]byte(s)))
	},
	"base64 of JSON": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(format(`\u%04x`)(s)))
	},
	"base64 over lines": func(s string) string {
		return lines(base64.StdEncoding.EncodeToString([]byte("Authorization: "+s)), 16, "\r\n")
	},
	"hex":               func(s string) string { return hex.EncodeToString([]byte(s)) },
	"hex dump":          format("%02x "),
	"hex bytes":         format("0x%02x, "),
	"decimal bytes":     format("%d,"),
	"over lines":        func(s string) string { return lines(s, 4, "\n") },
	"over HTML lines":   func(s string) string { return lines(s, 4, "<br/>\n") },
	"marked up":         func(s string) string { return s[:3] + `<b class="hit1">` + s[3:6] + "</b>" + s[6:] },
	"with soft hyphens": func(s string) string { return lines(s, 2, "&shy;") },
	"with zero widths":  func(s string) string { return lines(s, 1, "\u200b") },
	"with blanks":       func(s string) string { return lines(s, 1, " ") },
	"full width":        each(func(c byte) string { return string(rune(c) - '!' + 0xff01) }),
	"quoted":            func(s string) string { return `got "` + s + `", wanted none` },
	"the beginning":     func(s string) string { return s[:len(s)-2] + "…" },
	"the end":           func(s string) string { return "…" + s[len(s)-9:] },
	"the middle":        func(s string) string { return "…" + s[3:len(s)-1] + "***" },
}

func lines(s string, width int, with string) string {
	var b strings.Builder
	for ; len(s) > width; s = s[width:] {
		b.WriteString(s[:width] + with)
	}
	return b.String() + s
}

func TestExcerptsRepeatNoSecretInAnySpelling(t *testing.T) {
	t.Parallel()
	r, sign, proxy, secrets := secretive()
	ns := secretsOf(r, sign, proxy)
	shown := func(body string, cut bool) string {
		return excerpt([]byte(body), cut, false, func() needles { return ns })
	}
	for kind, secret := range secrets {
		for name, escape := range escapes {
			spelled := escape(secret)
			for _, around := range []string{"%s", "cannot use %s here", "<p>%s</p>", `{"error":"%s"}`, "xx%s"} {
				if got := shown(fmt.Sprintf(around, spelled), false); got != withheldSecret {
					t.Errorf("%s, %s in %q: %q", kind, name, around, got)
				}
			}
		}
		// However the body is cut, no more than five characters of the secret are left, or nothing
		// that differs from a word.
		body := "refused: " + secret
		for n := len("refused: ") + 3; n < len(body); n++ {
			if got := shown(body[:n], true); got != withheldSecret && len(squeeze(secret[:n-len("refused: ")])) >= 3 &&
				kind != "signing" {
				t.Errorf("%s cut after %d: %q", kind, n, got)
			}
		}
	}
}

// What most responses to a failed request contain stays readable.
func TestExcerptsThatAreShown(t *testing.T) {
	t.Parallel()
	r, sign, proxy, _ := secretive()
	for _, body := range []string{
		"Cannot POST /hooks", "Not Found", `{"error":"invalid signature","code":401}`,
		"<html><head><title>502 Bad Gateway</title></head><body>nginx/1.25</body></html>",
		"Internal Server Error: NullPointerException at com.example.bms.OrderService.update(OrderService.java:217)",
		`{"timestamp":"2026-01-15T09:38:44.687+00:00","status":500,"error":"Internal Server Error","path":"/orders"}`,
		"Bearer token missing", "Basic realm=\"bms\"",
		"request id 5f0c3a2e-9b1d-4c7e-8a6f-2d4b6c8e0f1a, trace 4bf92f3577b34da6a3ce929d0e0e4736",
		"Die Bestellung wurde nicht gefunden: Gr\xfc\xdfe", "100% of 5\\6 &amp; more &#8211; done =3D",
	} {
		want := printable(body)
		if got := excerpt([]byte(body), false, false,
			func() needles { return secretsOf(r, sign, proxy) }); got != want {
			t.Errorf("%q: %q", body, got)
		}
	}
	for _, body := range []string{"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", "\x00\x01\x02", "a\x00b",
		strings.Repeat("\xff\xfe\x80", 20)} {
		if got := excerpt([]byte(body), false, false, nil); got != withheldBinary {
			t.Errorf("%q: %q", body, got)
		}
	}
	if got := excerpt([]byte("fine"), false, true, nil); got != withheldBinary {
		t.Errorf("compressed: %q", got)
	}
}

// Short secrets and such of signs or another script are found as a whole.
func TestExcerptsAndUnusualSecrets(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"a1b2", "north", "!§$%&/()", "пароль-сезам", "pässwörter", "\"quoted\"-value"} {
		r := &Request{URL: "https://bms.example/hook", Headers: map[string]string{"X-Key": secret}}
		ns := secretsOf(r, "", "")
		for name, escape := range map[string]func(string) string{
			"as it is": func(s string) string { return s }, "upper case": strings.ToUpper, "JSON": escapes["JSON"],
			"URL": url.QueryEscape, "HTML": html.EscapeString,
		} {
			if got := excerpt([]byte("no "+escape(secret)+" here"), false, false,
				func() needles { return ns }); got != withheldSecret {
				t.Errorf("%s, %s: %q", secret, name, got)
			}
		}
	}
}

func TestExcerptWithholdsRandomSecrets(t *testing.T) {
	t.Parallel()
	var names []string
	for name := range escapes {
		if name != "the beginning" && name != "the middle" && name != "the end" && name != "marked up" {
			names = append(names, name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringMatching(`[A-Za-z0-9_.+/=-]{12,40}`).Filter(
			func(s string) bool { return len(squeeze(s)) >= 10 }).Draw(t, "secret")
		r := &Request{URL: "https://bms.example/hook", Auth: Bearer(secret)}
		name := rapid.SampledFrom(names).Draw(t, "escape")
		before := rapid.StringMatching(`[ -~]{0,40}`).Draw(t, "before")
		body := before + " " + escapes[name](secret) + " " + rapid.StringMatching(`[ -~]{0,40}`).Draw(t, "after")
		if got := excerpt([]byte(body), false, false,
			func() needles { return secretsOf(r, "", "") }); got != withheldSecret {
			t.Fatalf("%s of %s in %q: %q", name, secret, body, got)
		}
	})
}

// However much a receiver wraps into one another, looking for secrets is bounded: by how much text
// is looked at in all.
func FuzzExcerpt(f *testing.F) {
	r, sign, proxy, secrets := secretive()
	ns := secretsOf(r, sign, proxy)
	for _, secret := range secrets {
		f.Add([]byte(secret))
	}
	nested := "p4th-t0ken-77aa"
	for range 6 {
		nested = base64.StdEncoding.EncodeToString([]byte(nested))
	}
	f.Add([]byte(nested))
	f.Add([]byte(strings.Repeat("&#37;25", 200)))
	f.Add([]byte("\\u00\\x4\\777%u00%4=4&#;&#x110000;\\u{110000}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		body = body[:min(len(body), excerptRead)]
		var h haystack
		h.add(string(body), 2)
		total := 0
		for _, s := range h.squeezed {
			total += len(s)
		}
		if total > 200*excerptRead {
			t.Fatalf("%d bytes are looked at", total)
		}
		got := excerpt(body, true, false, func() needles { return ns })
		for kind, secret := range secrets {
			if strings.Contains(squeeze(got), squeeze(secret)) {
				t.Fatalf("%s is in %q", kind, got)
			}
		}
	})
}

func TestExcerptsRepeatNoSecretOfOtherLetters(t *testing.T) {
	t.Parallel()
	key, err := signature.ParseSecret("whsec_" +
		base64.StdEncoding.EncodeToString([]byte("key-of-32-bytes-that-is-printed.")))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ secret, body string }{
		{"pässwörd-ünïque", "got password-unique"},
		{"pässwörd-ünïque", "got pa\u0308sswo\u0308rd-u\u0308ni\u0308que"},
		{"pässwörd-ünïque", "got p?ssw?rd-?n?que"},
		{"pässwörd-ünïque", "GOT PÄSSWÖRD-ÜNÏQUE"},
		{"秘密の鍵です", "got 秘密の鍵"},
		{"秘密の鍵です", "密の鍵で"},
		{"🔑🔑🐟🐟🐠", `{"got":"\ud83d\udd11\ud83d\udd11\ud83d\udc1f\ud83d\udc1f\ud83d\udc20"}`},
		{"🔑🔑🐟🐟🐠", `{"got":"\\ud83d\\udd11\\ud83d\\udd11\\ud83d\\udc1f\\ud83d\\udc1f"}`},
		{`""\\//<<>>&&`, `{"got":"\"\"\\\\//\u003c\u003c>>&&"}`},
		{"k9x", "pin k9x is wrong"},
		{"k9x", `{"pin":"K9X"}`},
		{"k9x", "pin=k9x&"},
		{"", "key-of-32-bytes-that-is-printed."},
		{"", "KEY OF 32 BYTES"},
	} {
		r := &Request{URL: "https://bms.example/", Secrets: []signature.Secret{key}}
		if tt.secret != "" {
			r.Auth = Basic("u", tt.secret)
		}
		secrets := func() needles { return secretsOf(r, "", "") }
		if got := excerpt([]byte(tt.body), false, false, secrets); got != withheldSecret {
			t.Errorf("%q in %q is shown", tt.secret, tt.body)
		}
		for _, innocent := range []string{"taskk9xy: no such table", "Datenbank nicht verfügbar", "キューがいっぱいです",
			`C:\\inetpub\\orders failed`} {
			if got := excerpt([]byte(innocent), false, false, secrets); got == withheldSecret {
				t.Errorf("%q in %q is withheld", tt.secret, innocent)
			}
		}
	}
}
