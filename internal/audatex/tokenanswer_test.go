package audatex

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestEveryFieldOfATokenAnswerIsReadForItself(t *testing.T) {
	t.Parallel()
	const both = `"access_token":"access-1","refresh_token":"refresh-1"`
	for name, tt := range map[string]struct {
		body    string
		life    time.Duration // the documented one if 0
		access  string        // access-1 if empty, none if "-"
		refresh string        // refresh-1 if empty, none if "-"
	}{
		"a float":                 {body: `{` + both + `,"expires_in":1800.0}`},
		"a float as text":         {body: `{` + both + `,"expires_in":"1800.0"}`},
		"a fraction":              {body: `{` + both + `,"expires_in":1799.97}`, life: 1799970 * time.Millisecond},
		"an exponent":             {body: `{` + both + `,"expires_in":6e2}`, life: 10 * time.Minute},
		"a text with blanks":      {body: `{` + both + `,"expires_in":" 600 "}`, life: 10 * time.Minute},
		"a date":                  {body: `{` + both + `,"expires_in":"2026-11-28T10:00:00Z"}`},
		"a time span":             {body: `{` + both + `,"expires_in":"00:30:00"}`},
		"zero":                    {body: `{` + both + `,"expires_in":0}`},
		"negative":                {body: `{` + both + `,"expires_in":-1800}`},
		"less than a second":      {body: `{` + both + `,"expires_in":0.0001}`},
		"beyond every number":     {body: `{` + both + `,"expires_in":1e999}`},
		"huge":                    {body: `{` + both + `,"expires_in":99999999999999999999999}`},
		"a point in time":         {body: `{` + both + `,"expires_in":1795860000}`},
		"a month":                 {body: `{` + both + `,"expires_in":2592000}`, life: 24 * time.Hour},
		"no number at all":        {body: `{` + both + `,"expires_in":NaN}`},
		"NaN before the tokens":   {body: `{"expires_in":NaN,` + both + `}`},
		"null":                    {body: `{` + both + `,"expires_in":null}`},
		"an object":               {body: `{"expires_in":{"seconds":1800},` + both + `}`},
		"a list":                  {body: `{"expires_in":[1800],` + both + `}`},
		"missing":                 {body: `{` + both + `}`},
		"a type that is a number": {body: `{` + both + `,"token_type":1}`},
		"a type that is null":     {body: `{"token_type":null,` + both + `}`},
		"error 0":                 {body: `{"error":0,` + both + `}`},
		"error null":              {body: `{"error":null,` + both + `}`},
		"error false":             {body: `{"error":false,` + both + `}`},
		"error empty":             {body: `{"error":"",` + both + `}`},
		"error none":              {body: `{"error":"none",` + both + `}`},
		"error an object":         {body: `{"error":{},` + both + `}`},
		"everything at once":      {body: `{` + both + `,"token_type":1,"expires_in":1800.0,"error":0}`},
		"a byte order mark":       {body: "\xef\xbb\xbf{" + both + `}`},
		"bytes behind":            {body: `{` + both + "}\x00\x00;"},
		"a comma too many":        {body: `{` + both + `,}`},
		"a comma missing later":   {body: `{` + both + `,"scope":"a" "b":1}`},
		"not closed":              {body: `{` + both},
		"cut behind the tokens":   {body: `{` + both + `,"expires_in":18`},
		"UTF-16":                  {body: utf16LE("{" + both + "}")},
		"unknown members":         {body: `{"x":{"a":["}",{}]},"userName":"\"}",` + both + `}`},
		"other spellings": {body: `{"Access_Token":"access-1","refreshToken":"refresh-1","ExpiresIn":600}`,
			life: 10 * time.Minute},
		"the exact spelling counts": {body: `{` + both + `,"refreshToken":"other","ACCESS_TOKEN":"other"}`},
		"twice, the last counts":    {body: `{"refresh_token":"refresh-0","access_token":"a",` + both + `}`},
		"twice, the last is null":   {body: `{` + both + `,"refresh_token":null,"access_token":""}`},
		"in a list":                 {body: `[{` + both + `}]`},
		"in an object":              {body: `{"token":{` + both + `,"expires_in":600}}`, life: 10 * time.Minute},
		"the refresh token deeper":  {body: `{"access_token":"access-1","more":{"refresh_token":"refresh-1"}}`},
		"encoded twice":             {body: `"{\"access_token\":\"access-1\",\"refresh_token\":\"refresh-1\"}"`},
		"a form": {body: `access_token=access-1&refresh_token=refresh-1&expires_in=600`,
			life: 10 * time.Minute},
		"a form with a bad pair": {body: `x=%zz&access_token=access-1&refresh_token=refresh-1`},
		"XML": {
			body: `<?xml version="1.0" encoding="utf-16"?><T><access_token>access-1</access_token><refresh_token>refresh-1</refresh_token></T>`},
		"blanks around a token": {body: `{"access_token":" access-1\n","refresh_token":"\trefresh-1 "}`},
		"a raw line break":      {body: "{\"access_token\":\"access-1\n\",\"refresh_token\":\"refresh-1\n\"}"},
		"escapes":               {body: `{"access_token":"\u0061ccess-1","refresh_token":"refresh\u002d1"}`},
		"no rotation":           {body: `{"access_token":"access-1"}`, refresh: "-"},
		"a number in its place": {body: `{"access_token":"access-1","refresh_token":12345}`, refresh: "-"},
		"null in its place":     {body: `{"access_token":"access-1","refresh_token":null}`, refresh: "-"},
		"a list in its place":   {body: `{"access_token":"access-1","refresh_token":["x"]}`, refresh: "-"},
		"no access token": {body: `{"refresh_token":"refresh-1","expires_in":600}`, access: "-",
			life: 10 * time.Minute},
		"an access token of a type":  {body: `{"refresh_token":"refresh-1","access_token":{"a":1}}`, access: "-"},
		"an access token for no one": {body: `{"refresh_token":"refresh-1","access_token":"a\u0000b"}`, access: "-"},
		"cut within the tokens":      {body: `{"refresh_token":"refresh-1","access_token":"acc`, access: "-"},
		"nothing":                    {body: ``, access: "-", refresh: "-"},
		"JSONP":                      {body: `callback({` + both + `});`},
		"a prefix against scripts":   {body: ")]}',\n{" + both + `}`},
		"a comment before":           {body: `/* node 7 */ {` + both + `}`},
		"a comment within":           {body: "{ // node 7\n" + both + `}`},
		"a warning before": {body: "Warning: foo in bar.php on line 3\n{" + both + `,"expires_in":600}`,
			life: 10 * time.Minute},
		"another document before": {body: `{"status":"ok"}` + "\n{" + both + `}`},
		"a page around":           {body: `<html><body><pre>{` + both + `}</pre></body></html>`},
		"a page around, escaped":  {body: `<pre>{` + strings.ReplaceAll(both, `"`, `&quot;`) + `}</pre>`},
		"JSON in XML":             {body: `<string xmlns="http://x">{` + both + `}</string>`},
		"JSON in a text": {
			body: `{"Result":"{\"access_token\":\"access-1\",\"refresh_token\":\"refresh-1\"}"}`},
		"JSON in a script's text": {body: `var t = "{\"access_token\":\"access-1\",\"refresh_token\":\"refresh-1\"}";`},
		"attributes":              {body: `<t access_token="access-1" refresh_token='refresh-1'/>`},
		"CDATA": {
			body: `<t><access_token><![CDATA[access-1]]></access_token><refresh_token><![CDATA[refresh-1]]></refresh_token>`},
		"other quotes":         {body: `{'access_token': 'access-1', 'refresh_token': 'refresh-1'}`},
		"names without quotes": {body: `{access_token: "access-1", refresh_token: "refresh-1"}`},
		"equals signs":         {body: `{"access_token" = "access-1", "refresh_token" = "refresh-1"}`},
		"lines": {body: "access_token: access-1\r\nrefresh_token: refresh-1\r\nexpires_in: 600",
			life: 10 * time.Minute},
		"lines of a form":          {body: "access_token=access-1\nrefresh_token=refresh-1\n"},
		"escapes behind something": {body: `x({"access_token":"\u0061ccess-1","refresh_token":"refresh\u002d1"})`},
		"a mark within a token":    {body: `{"access_token":"\ufeffaccess-1","refresh_token":"\ufeffrefresh-1\u200b"}`},
		"ready for a header":       {body: `{"access_token":"Bearer access-1","refresh_token":"refresh-1"}`},
		"numbers": {body: `{"access_token":1234567890,"refresh_token":9876543210}`, access: "1234567890",
			refresh: "9876543210"},
		"a refresh token in words": {body: `<p>refresh_token: has been revoked already</p>`, access: "-", refresh: "-"},
		"names of other things": {body: `x access_token_type: something refresh_token_expires_in: 86400000`,
			access:  "-",
			refresh: "-"},
		"half a token behind a call": {body: `x({"access_token":"access-1","refresh_token":"refre`, refresh: "-"},
		"a page": {body: `<html><form><input name="access_token"></form>`,
			access: "-", refresh: "-"},
		"deep": {body: strings.Repeat(`{"a":`, 10_000) + `{` + both},
		"deep, whole": {body: strings.Repeat(`{"a":`, 100) + `{` + both + `}` + strings.Repeat("}", 100),
			access: "-", refresh: "-"},
	} {
		got := readTokenAnswer(fromUTF16([]byte(tt.body)))
		want := func(s, usual string) string {
			switch s {
			case "":
				return usual
			case "-":
				return ""
			}
			return s
		}
		if a := want(tt.access, "access-1"); got.access.Reveal() != a {
			t.Errorf("%s: access token %q, want %q", name, got.access.Reveal(), a)
		}
		if r := want(tt.refresh, "refresh-1"); got.refresh.Reveal() != r {
			t.Errorf("%s: refresh token %q, want %q", name, got.refresh.Reveal(), r)
		}
		if life := max(tt.life, 0); got.life != life && (life != 0 || got.life != defaultLife) {
			t.Errorf("%s: life %s, want %s", name, got.life, tt.life)
		}
	}
}

// utf16LE is s in UTF-16 with a byte order mark; s is ASCII.
func utf16LE(s string) string {
	b := []byte{0xff, 0xfe}
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return string(b)
}

// A rotated refresh token exists only in the response that brought it.
func TestARefreshTokenIsStoredWhateverElseCannotBeRead(t *testing.T) {
	t.Parallel()
	const complete = `{"access_token":"access-2","refresh_token":"refresh-2","expires_in":1800}`
	for name, first := range map[string]http.HandlerFunc{
		"no access token":     answering(200, `{"refresh_token":"refresh-1"}`),
		"an odd access token": answering(200, `{"access_token":17,"refresh_token":"refresh-1"}`),
		"an error beside it":  answering(200, `{"refresh_token":"refresh-1","error":"server_error"}`),
		"even invalid_grant":  answering(200, `{"refresh_token":"refresh-1","error":"invalid_grant"}`),
		"created":             answering(201, `{"refresh_token":"refresh-1"}`),
		"cut": cut("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" +
			`{"refresh_token":"refresh-1","access_tok`),
		"followed by too much": answering(200,
			`{"refresh_token":"refresh-1","x":"`+strings.Repeat("x", maxTokenBody)+`"}`),
		"cut within compressed": answering(200, string(gzipped(`{"refresh_token":"refresh-1","access_tok`)[:50]),
			"Content-Encoding", "gzip"),
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newTokenMap(leeds, freshRecord())
			var sent []string
			m := tokens(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				if sent = append(sent, r.PostForm.Get("refresh_token")); len(sent) == 1 {
					first(w, r)
					return
				}
				answering(200, complete)(w, r)
			}), store, nil)
			_, err := m.Access(t.Context(), leeds)
			if err == nil {
				t.Fatalf("%s: no error without an access token", name)
			}
			if rec := store.get(leeds); rec.RefreshToken.Reveal() != "refresh-1" || rec.Intent != nil ||
				rec.ConsentRequiredSince != nil {
				t.Fatalf("%s: %q is stored, intent %v, consent required %v", name, rec.RefreshToken.Reveal(),
					rec.Intent, rec.ConsentRequiredSince)
			}
			if _, err := m.Access(t.Context(), leeds); err == nil || len(sent) != 1 {
				t.Errorf("%s: refreshed again at once (%d requests, %v)", name, len(sent), err)
			}
			pass(2 * time.Second)
			hasAccess(t, m, store, "access-2")
			if len(sent) != 2 || sent[1] != "refresh-1" {
				t.Errorf("%s: sent %q", name, sent)
			}
		})
	}
}

func TestACodeExchangeKeepsTheRefreshTokenOfAnyAnswer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		access string
	}{
		"odd fields": {answering(200,
			`{"access_token":"access-1","refresh_token":"refresh-1","expires_in":"1800.0","token_type":1,"error":0}`),
			"access-1"},
		"compressed": {answering(200, string(gzipped(`{"access_token":"access-1","refresh_token":"refresh-1"}`)),
			"Content-Encoding", "gzip"), "access-1"},
		"no access token": {answering(200, `{"refresh_token":"refresh-1"}`), ""},
		"cut": {cut("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" +
			`{"refresh_token":"refresh-1","access_tok`), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := tokens(t, tt.answer, newTokenMap(leeds, freshRecord()), nil)
			rec, err := m.ExchangeCode(t.Context(),
				Code{Code: "the-code", RedirectURI: "https://relay.test/oauth/callback"})
			if err != nil || rec.RefreshToken.Reveal() != "refresh-1" || rec.AccessToken.Reveal() != tt.access {
				t.Errorf("%s: %q and %q (%v)", name, rec.AccessToken.Reveal(), rec.RefreshToken.Reveal(), err)
			}
		})
	}
}

func TestCredentialsOfTheRelay(t *testing.T) {
	t.Parallel()
	for _, style := range []AuthStyle{AuthForm, AuthBasic} {
		synctest.Test(t, func(t *testing.T) {
			v, store := newTokenVendor(), newTokenMap(leeds, freshRecord())
			m := tokens(t, v, store, func(c *TokensConfig) {
				c.AuthStyle, c.ClientID, c.ClientSecret = style, "re lay", relay.NewSecret("hush:+hush")
			})
			hasAccess(t, m, store, "access-1")
			req := &http.Request{Header: http.Header{"Authorization": {v.lastAuth}}}
			id, secret, basic := req.BasicAuth()
			if style == AuthForm {
				id, secret = v.lastForm.Get("client_id"), v.lastForm.Get("client_secret")
			} else {
				id, _ = url.QueryUnescape(id)
				secret, _ = url.QueryUnescape(secret)
			}
			if basic != (style == AuthBasic) || id != "re lay" || secret != "hush:+hush" ||
				v.lastForm.Has("client_secret") == basic {
				t.Errorf("%s: id %q, secret %q", style, id, secret)
			}
		})
	}
}

// FuzzTokenAnswer holds every response against two rules: what was found stands in the response, and a
// refresh token before any other bytes is found.
func FuzzTokenAnswer(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"access-1","refresh_token":"refresh-1","expires_in":1800.0,"token_type":1,"error":0}`,
		`{"error":"invalid_grant"}`, `[{"refreshToken":"a"}]`, `access_token=a&refresh_token=b`,
		`<t><access_token>a</access_token></t>`,
		`"{\"access_token\":\"a\"}"`, "\xff\xfe{\x00", `{"a":{"b":{"refresh_token":"c"}}}`, `{"refresh_token":"a`,
		`"x":[[[{`,
	} {
		f.Add([]byte(s))
	}
	addRecorded(f, "token")
	f.Fuzz(func(t *testing.T, body []byte) {
		got := readTokenAnswer(fromUTF16(body))
		for _, token := range []string{got.access.Reveal(), got.refresh.Reveal(), got.code} {
			if len(token) > 3*len(body) { // an invalid byte becomes a replacement character of three
				t.Fatalf("a token of %d bytes out of %d", len(token), len(body))
			}
		}
		if got.life < time.Second || got.life > longestLife {
			t.Errorf("life %s", got.life)
		}
		if strings.ContainsFunc(got.access.Reveal(), notInToken) {
			t.Errorf("access token %q does not fit into a header", got.access.Reveal())
		}
		name, _ := json.Marshal(string(body))
		if first := readTokenAnswer(append([]byte(`{"refresh_token":"refresh-1",`),
			name...)); first.refresh.Reveal() != "refresh-1" {
			t.Errorf("the refresh token before %q was lost", name)
		}
		if bytes.Contains(body, []byte(`"`)) || bytes.Contains(body, []byte(`\`)) {
			return
		}
		junk := readTokenAnswer([]byte(`{"refresh_token":"refresh-1","expires_in":` + string(body)))
		if junk.refresh.Reveal() != "refresh-1" && !strings.ContainsAny(string(body), `}]`) {
			t.Errorf("the refresh token before %q was lost", body)
		}
	})
}
