package sandbox

import (
	"net/http"
	"slices"
	"time"
)

// The portal's pages. GET AuthorizePath shows the sign-in page or, to a browser that is signed in,
// the consent page. Signing in is a POST to SignInPath, which redirects to AuthorizePath. The
// decision is a POST to AuthorizePath, which redirects to the client.

// sessionCookie is the cookie of a signed-in browser.
const (
	sessionCookie   = "AudaPortalSession"
	sessionLifetime = 20 * time.Minute
)

// session is a signed-in browser.
type session struct {
	account Account
	expires time.Time
}

// session returns the account that is signed in. The caller must hold mu.
func (s *Sandbox) session(r *http.Request) (Account, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return Account{}, false
	}
	in := s.sessions[cookie.Value]
	if in == nil || !s.now().Before(in.expires) {
		return Account{}, false
	}
	return in.account, true
}

// endSession signs a browser out and returns the cookie for that. The caller must hold mu.
func (s *Sandbox) endSession(r *http.Request) string {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		delete(s.sessions, cookie.Value)
	}
	return portalCookie("", -1)
}

func portalCookie(value string, maxAge int) string {
	cookie := http.Cookie{
		Name: sessionCookie, Value: value, Path: "/AudaAPI.Portal", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	return cookie.String()
}

func (s *Sandbox) authorize(c call) answer {
	a, refusal, ok := s.authorization(c.URL.RawQuery)
	if !ok {
		return refusal
	}
	s.mu.Lock()
	auto := s.auto
	account, in := s.session(c.Request)
	s.mu.Unlock()
	switch {
	case auto != nil:
		return s.giveCode(a, *auto, a.scopes)
	case in:
		return a.show("consent", page{Account: account, Scopes: s.offered(a, account)})
	}
	return a.show("signin", page{})
}

// offered returns the scopes that the consent page offers to a user.
func (s *Sandbox) offered(a authorization, u Account) []string {
	return slices.DeleteFunc(s.Behaviour().grantable(a.scopes), func(scope string) bool {
		return u.Scopes != nil && !slices.Contains(u.Scopes, scope)
	})
}

// request parses the form of a page, and the request for consent for which the page was shown.
func (s *Sandbox) request(c call) (authorization, answer, bool) {
	if err := c.ParseForm(); err != nil {
		return authorization{}, plain(http.StatusBadRequest, "The form cannot be read."), false
	}
	return s.authorization(c.PostForm.Get("request"))
}

// signInForm handles the sign-in page's form, and the consent page's button for signing in as
// somebody else.
func (s *Sandbox) signInForm(c call) answer {
	a, refusal, ok := s.request(c)
	if !ok {
		return refusal
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := answer{status: http.StatusFound, header: map[string]string{
		"Location": AuthorizePath + "?" + a.query, "Set-Cookie": s.endSession(c.Request), "Cache-Control": "no-store",
	}}
	if c.PostForm.Has("signout") {
		return next
	}
	company, name := c.PostForm.Get("CompanyCode"), c.PostForm.Get("UserName")
	account, ok := s.signIn(company, name, c.PostForm.Get("Password"))
	if !ok { // 200, as in ASP.NET's own sign-in page
		return a.show("signin", page{
			Wrong: "The company code, user name or password is wrong.", CompanyCode: company, UserName: name,
		})
	}
	s.nextToken++
	value := s.dice("session", s.nextToken).token()
	s.sessions[value] = &session{account: account, expires: s.now().Add(sessionLifetime)}
	next.header["Set-Cookie"] = portalCookie(value, 0)
	return next
}

// consent handles the consent page's form.
func (s *Sandbox) consent(c call) answer {
	a, refusal, ok := s.request(c)
	if !ok {
		return refusal
	}
	s.mu.Lock()
	account, in := s.session(c.Request)
	s.mu.Unlock()
	if !in {
		return a.show("signin", page{
			Wrong: "Your session has ended, or your browser keeps no cookies. Please sign in again.",
		})
	}
	decided := a.back("error", "access_denied")
	if c.PostForm.Get("decision") == "allow" {
		decided = s.giveCode(a, account.Consent, slices.DeleteFunc(s.offered(a, account), func(scope string) bool {
			return !slices.Contains(c.PostForm["grant"], scope)
		}))
	}
	if !s.Behaviour().RememberSignIn {
		s.mu.Lock()
		decided.header["Set-Cookie"] = s.endSession(c.Request)
		s.mu.Unlock()
	}
	return decided
}
