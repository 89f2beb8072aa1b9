package sandbox

import (
	"net/http"
	"strconv"
	"strings"
)

// The sister API's errors are JSON.
func message(status int, text string) answer {
	return jsonValue(status, map[string]string{"Message": text})
}

// sister is a call of the sister API: as api, but its refusals are JSON.
func (s *Sandbox) sister(op Operation, scope string, run func(call) answer) http.Handler {
	return s.vendor(op, s.bearing, func(c call) answer {
		now := s.cfg.Now()
		s.mu.Lock()
		rest, limited := s.overLimit(now)
		if limited {
			s.tally.RateLimited++
		}
		c.grant = s.bearer(c.Request, now)
		s.mu.Unlock()
		switch {
		case limited:
			a := message(http.StatusTooManyRequests, textThrottled)
			a.header = map[string]string{"Retry-After": s.retryAfter(rest, false)}
			return a
		case c.grant == nil:
			a := message(http.StatusUnauthorized, "Authorization has been denied for this request.")
			a.header = map[string]string{"WWW-Authenticate": "Bearer"}
			return a
		case !c.grant.has(scope):
			return message(http.StatusForbidden, "The scope "+scope+" is required.")
		case asksForXML(c.Header.Get("Accept")):
			return message(http.StatusNotAcceptable, "This sandbox answers in JSON only.")
		}
		return run(c)
	})
}

// usersMe answers who the token is: the user's own site and company, and what nobody asked for.
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
		// The vendor's document does not say of what type the ids are.
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
