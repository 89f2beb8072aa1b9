package httpapi

import (
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

// authOf returns the stored form of a callback's auth; nil if there is none.
func authOf(a CallbackAuth) *relay.Auth {
	if a.Type == "" {
		return nil
	}
	return &relay.Auth{
		Type: string(a.Type), Token: a.Token, Username: a.Username, Password: a.Password,
		TokenURL: a.TokenUrl, ClientID: a.ClientId, ClientSecret: a.ClientSecret, Scope: a.Scope, Audience: a.Audience,
		InForm: a.ClientAuth == CallbackAuthClientAuthForm,
	}
}

// callbackAuth is the inverse of authOf.
func callbackAuth(a *relay.Auth) CallbackAuth {
	if a == nil {
		return CallbackAuth{}
	}
	auth := CallbackAuth{
		Type: AuthScheme(a.Type), Token: a.Token, Username: a.Username, Password: a.Password,
		TokenUrl: a.TokenURL, ClientId: a.ClientID, ClientSecret: a.ClientSecret, Scope: a.Scope, Audience: a.Audience,
	}
	if a.InForm {
		auth.ClientAuth = CallbackAuthClientAuthForm
	}
	return auth
}

// The members of an auth beside its type, and the types that they belong to.
var authMembers = []struct {
	name     string
	of       AuthScheme
	required bool
	value    func(*CallbackAuth) string
}{
	{"token", AuthSchemeBearer, true, func(a *CallbackAuth) string { return a.Token }},
	{"username", AuthSchemeBasic, false, func(a *CallbackAuth) string { return a.Username }},
	{"password", AuthSchemeBasic, false, func(a *CallbackAuth) string { return a.Password }},
	{"tokenUrl", AuthSchemeOauth2, true, func(a *CallbackAuth) string { return a.TokenUrl }},
	{"clientId", AuthSchemeOauth2, true, func(a *CallbackAuth) string { return a.ClientId }},
	{"clientSecret", AuthSchemeOauth2, true, func(a *CallbackAuth) string { return a.ClientSecret }},
	{"scope", AuthSchemeOauth2, false, func(a *CallbackAuth) string { return a.Scope }},
	{"audience", AuthSchemeOauth2, false, func(a *CallbackAuth) string { return a.Audience }},
	{"clientAuth", AuthSchemeOauth2, false, func(a *CallbackAuth) string { return string(a.ClientAuth) }},
}

// checkAuth checks what the contract's schema cannot. A token URL that the callback already has is
// accepted, as its URL is.
func (a *API) checkAuth(auth CallbackAuth, before *relay.Auth) (errs []FieldError) {
	if auth.Type == "" {
		return nil
	}
	for _, m := range authMembers {
		switch value := m.value(&auth); {
		case m.of != auth.Type && value != "":
			errs = append(errs, at("/auth/"+m.name, "belongs to %s: leave it out, or set it to null in a PATCH", m.of))
		case m.of == auth.Type && m.required && value == "":
			errs = append(errs, at("/auth/"+m.name, "is missing"))
		}
	}
	if auth.Type == AuthSchemeBasic && auth.Username == "" && auth.Password == "" {
		errs = append(errs, at("/auth/username", "is missing"))
	}
	// the receiver would take it for the end of the name (RFC 7617, section 2)
	if strings.Contains(auth.Username, ":") {
		errs = append(errs, at("/auth/username", "holds a colon"))
	}
	known := before != nil && before.TokenURL == auth.TokenUrl
	if relay.IsRedacted(auth.TokenUrl) {
		errs = append(errs, at("/auth/tokenUrl", "holds %s: send the whole URL", relay.RedactionMark))
	} else if err := sender.CheckURL(auth.TokenUrl, a.c.CallbackNets); err != nil && !known && auth.TokenUrl != "" {
		errs = append(errs, at("/auth/tokenUrl", "%s", err))
	}
	return errs
}
