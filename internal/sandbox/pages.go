package sandbox

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"regexp"
	"strings"
)

// pageStyle is the portal's whole design. The pages' policy contains its hash.
const pageStyle = `body{font:1em/1.5 sans-serif;max-width:32em;margin:0 auto;padding:1em;color:#222;background:#fff}` +
	`label{display:block;margin:.8em 0}input{font:inherit}input:not([type=checkbox]){display:block;width:100%;` +
	`box-sizing:border-box;padding:.4em}button{font:inherit;padding:.5em 1.2em;margin:.8em .6em 0 0}` +
	`.wrong{border-left:.3em solid #a00;padding-left:.6em}`

// pages are plain HTML without scripts, so that they look and work the same in a browser that runs
// none.
var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"style": func() template.CSS { return pageStyle },
}).Parse(`
{{define "head"}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>AudaConnect sandbox: {{.}}</title><style>{{style}}</style></head><body><main>
{{end}}
{{define "signin"}}{{template "head" "sign in"}}<h1>Sign in</h1>
{{if .Wrong}}<p class="wrong" role="alert">{{.Wrong}}</p>
{{end}}<p>The application {{.ClientID}} asks for access to your data. Sign in to go on.</p>
<form method="post" action="{{.SignInPath}}">
<input type="hidden" name="request" value="{{.Query}}">
<label>Company Code <input name="CompanyCode" value="{{.CompanyCode}}" autocomplete="organization" required></label>
<label>User Name <input name="UserName" value="{{.UserName}}" autocomplete="username" required></label>
<label>Password <input name="Password" type="password" autocomplete="current-password" required></label>
<button id="signin">Sign in</button>
</form></main></body></html>
{{end}}
{{define "consent"}}{{template "head" "consent"}}<h1>Grant access?</h1>
<p>You are signed in as {{.Account.User}} of company {{.Account.CompanyCode}}, site {{range $i, $s := .Account.Sites}}{{if $i}}, {{end}}{{$s}}{{end}}.</p>
<form method="post" action="{{.ConsentPath}}">
<input type="hidden" name="request" value="{{.Query}}">
<fieldset><legend>The application {{.ClientID}} asks for</legend>
{{range .Scopes}}<label><input type="checkbox" name="grant" value="{{.}}" checked> {{.}}</label>
{{end}}</fieldset>
<button id="allow" name="decision" value="allow">Allow</button>
<button id="deny" name="decision" value="deny">Deny</button>
</form>
<form method="post" action="{{.SignInPath}}">
<input type="hidden" name="request" value="{{.Query}}">
<button id="signout" name="signout" value="1">Sign in as somebody else</button>
</form></main></body></html>
{{end}}
`))

// page is the data of the templates.
type page struct {
	ClientID, Query         string
	SignInPath, ConsentPath string

	Wrong, CompanyCode, UserName string   // sign in
	Account                      Account  // consent
	Scopes                       []string // consent
}

// plainHost matches a host that a policy can name. It cannot name an IPv6 address.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?$`)

// show returns a page. Its policy allows what the page does and no more. Chromium checks redirects
// after a form against form-action, too, so the client's address is in it.
func (a authorization) show(name string, p page) answer {
	p.ClientID, p.Query, p.SignInPath, p.ConsentPath = a.ClientID, a.query, SignInPath, AuthorizePath
	var out strings.Builder
	if err := pages.ExecuteTemplate(&out, name, p); err != nil {
		return plain(http.StatusInternalServerError, textBroken)
	}
	sum := sha256.Sum256([]byte(pageStyle))
	policy := "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'"
	policy += " " + a.redirect.Scheme + ":"
	if plainHost.MatchString(a.redirect.Host) {
		policy += "//" + a.redirect.Host
	}
	return answer{
		status: http.StatusOK, contentType: "text/html; charset=utf-8", body: []byte(out.String()),
		header: map[string]string{
			"Content-Security-Policy": policy, "X-Frame-Options": "DENY",
			"Cache-Control": "no-store", "Pragma": "no-cache",
		},
	}
}
