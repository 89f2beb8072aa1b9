// Package sandboxtest goes through the sandbox's portal for tests, like a user of a browser without
// scripts. Visitor.Consent opens a consent URL, signs in and decides.
// Begin reading at Visitor.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Visitor is a user of the portal with a browser.
type Visitor struct {
	// Company, User and Password are what the user enters.
	Company, User, Password string
	// Scopes are the scopes left ticked; nil leaves all of them.
	Scopes []string
	// Deny presses Deny instead of Allow.
	Deny bool
	// Transport is http.DefaultTransport if nil.
	Transport http.RoundTripper
}

// ErrSignIn is returned if the portal refuses the credentials.
var ErrSignIn = errors.New("the portal refuses the company code, the user name or the password")

// Consent opens a consent URL, signs in, decides, and returns the address to which the portal then
// redirects the browser. It does not open that address.
func (v Visitor) Consent(ctx context.Context, consentURL string) (*url.URL, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("making a cookie jar: %w", err)
	}
	portal, err := url.Parse(consentURL)
	if err != nil {
		return nil, fmt.Errorf("reading the consent URL: %w", err)
	}
	browser := &http.Client{Jar: jar, Transport: v.Transport}
	browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if next.URL.Host != portal.Host {
			return http.ErrUseLastResponse
		}
		return nil
	}
	got, err := send(ctx, browser, http.MethodGet, portal, nil)
	if err == nil && got.form("Password") {
		got, err = got.post(ctx, browser, url.Values{
			"CompanyCode": {v.Company}, "UserName": {v.User}, "Password": {v.Password},
		})
		if err == nil && got.form("Password") {
			return nil, ErrSignIn
		}
	}
	if err == nil && got.form("decision") {
		answers := url.Values{"decision": {"allow"}}
		if v.Deny {
			answers.Set("decision", "deny")
		}
		for _, ticked := range ticked.FindAllStringSubmatch(got.body, -1) {
			if scope := html.UnescapeString(ticked[1]); v.Scopes == nil || slices.Contains(v.Scopes, scope) {
				answers.Add("grant", scope)
			}
		}
		got, err = got.post(ctx, browser, answers)
	}
	if err != nil {
		return nil, err
	}
	if got.location == nil {
		return nil, fmt.Errorf("the portal shows %d %q and sends nobody back", got.status, got.body)
	}
	return got.location, nil
}

var (
	ticked  = regexp.MustCompile(`name="grant" value="([^"]*)" checked`)
	action  = regexp.MustCompile(`<form method="post" action="([^"]*)"`)
	request = regexp.MustCompile(`name="request" value="([^"]*)"`)
)

// page is what the browser shows.
type page struct {
	at       *url.URL
	status   int
	body     string
	location *url.URL
}

func (p page) form(field string) bool { return strings.Contains(p.body, ` name="`+field+`"`) }

// post sends the first form of the page.
func (p page) post(ctx context.Context, browser *http.Client, answers url.Values) (page, error) {
	to, hidden := action.FindStringSubmatch(p.body), request.FindStringSubmatch(p.body)
	if to == nil || hidden == nil {
		return page{}, fmt.Errorf("the portal's page has no form: %q", p.body)
	}
	answers.Set("request", html.UnescapeString(hidden[1]))
	target, err := p.at.Parse(html.UnescapeString(to[1]))
	if err != nil {
		return page{}, fmt.Errorf("reading the portal's form: %w", err)
	}
	return send(ctx, browser, http.MethodPost, target, answers)
}

func send(ctx context.Context, browser *http.Client, method string, target *url.URL, form url.Values) (page, error) {
	r, err := http.NewRequestWithContext(ctx, method, target.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return page{}, fmt.Errorf("making a request: %w", err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	got, err := browser.Do(r)
	if err != nil {
		return page{}, fmt.Errorf("visiting the portal: %w", err)
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(got.Body, 1<<20))
	if err != nil {
		return page{}, fmt.Errorf("reading the portal's page: %w", err)
	}
	shown := page{at: got.Request.URL, status: got.StatusCode, body: string(body)}
	if got.StatusCode/100 == 3 {
		shown.location, err = got.Location()
		if err != nil {
			return page{}, fmt.Errorf("reading where the portal sends the browser: %w", err)
		}
	}
	return shown, nil
}
