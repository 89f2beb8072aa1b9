package sandbox

import (
	"net/http"
	"strconv"
	"strings"
)

// message returns an error of the sister API, whose errors are JSON.
func message(status int, text string) answer {
	return jsonValue(status, map[string]string{"Message": text})
}

// usersAPI handles a call of the sister API. It is like api, but its refusals are JSON.
func (s *Sandbox) usersAPI(op Operation, scope string, run func(call) answer) http.Handler {
	return s.vendor(op, s.bearing, func(c call) answer {
		no := refusals{message, "Authorization has been denied for this request.",
			"The scope " + scope + " is required."}
		return s.admit(c, scope, no, func(c call) answer {
			if asksForXML(c.Header.Get("Accept")) {
				return message(http.StatusNotAcceptable, textJSONOnly)
			}
			return run(c)
		})
	})
}

// usersMe returns who owns the token: the user's own site and company, and more.
func (s *Sandbox) usersMe(c call) answer {
	who := c.grant.consent
	me := map[string]any{
		"SiteId": who.Sites[0], "CompanyCode": who.CompanyCode, "TerminalId": who.Terminal,
		"UserName": who.User, "FirstName": "Front", "LastName": "Desk",
		"EmailAddress": "front.desk@" + strings.ToLower(who.CompanyCode) + ".example",
	}
	if !s.cfg.Tame {
		me["UserId"] = c.grant.number
		me["Roles"] = []string{"Estimator", "Parts & <Orders>"}
		me["TelephoneNumber"] = nil
		// The vendor's documentation does not specify the type of the ids.
		if c.grant.number%2 == 0 {
			for _, field := range []string{"SiteId", "TerminalId"} {
				if n, err := strconv.ParseUint(me[field].(string), 10, 32); err == nil && n > 0 {
					if text := strconv.FormatUint(n, 10); text == me[field] {
						me[field] = n
					}
				}
			}
		}
	}
	return jsonValue(http.StatusOK, me)
}
