package audatex

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"path"

	"github.com/audatex-relay/relay/internal/relay"
)

// ScopeCompany is the scope of the vendor's sister API that Me needs. It is optional: not every
// integrator gets it.
const ScopeCompany = "ReferenceData.Company"

// mePath is the path of the user in the sister API, next to the API's own base.
const mePath = "/AudaAPI.WebAPI/api/users/me"

// meURL returns the address of the user in the sister API of the same installation.
func meURL(base *url.URL) string {
	u := *base
	u.RawPath = ""
	u.Path = path.Join("/", path.Dir(path.Join("/", u.Path)), mePath)
	return u.String()
}

// Me is the site and the company of the user who consented. The vendor's response also has names
// and an e-mail address, which are not read.
type Me struct {
	SiteID, CompanyCode, TerminalID string
}

// maxMeID bounds an id of Me, in bytes.
const maxMeID = 64

// Me returns the site and company of the token's user. It needs ScopeCompany; without it the
// outcome is Forbidden.
func (c *Client) Me(ctx context.Context, token relay.Secret) (Me, error) {
	a, err := c.get(ctx, call{op: OpMe, url: c.me, token: token})
	if err != nil {
		return Me{}, err
	}
	me, ok := readMe(a.body)
	if !ok {
		return Me{}, a.malformed(OpMe, errors.New("answer names no site"))
	}
	return me, nil
}

// readMe parses the user. An id may be a text or a number; one that is too long is ignored.
func readMe(body []byte) (Me, bool) {
	objects, err := objectsOf(body)
	if err != nil || len(objects) != 1 { // several users would prove nothing
		return Me{}, false
	}
	var w struct{ SiteID, CompanyCode, TerminalID json.RawMessage }
	if json.Unmarshal(objects[0], &w) != nil {
		return Me{}, false
	}
	id := func(raw json.RawMessage) string {
		if s := message([]byte(text(raw)), relay.Secret{}); len(s) <= maxMeID {
			return s
		}
		return ""
	}
	me := Me{SiteID: id(w.SiteID), CompanyCode: id(w.CompanyCode), TerminalID: id(w.TerminalID)}
	return me, me.SiteID != ""
}
