package sandbox

import "net/http"

// controlPortal adds the portal's accounts and the vendor's behaviour.
func (s *Sandbox) controlPortal(handle func(string, func(*http.Request) (int, any, error))) {
	handle("GET /accounts", func(*http.Request) (int, any, error) { return http.StatusOK, shown(s.Accounts()), nil })
	handle("PUT /accounts", func(r *http.Request) (int, any, error) {
		var accounts []Account
		if err := readJSON(r, &accounts); err != nil {
			return 0, nil, err
		}
		if err := s.SetAccounts(accounts...); err != nil {
			return 0, nil, badRequest(err)
		}
		return http.StatusOK, shown(s.Accounts()), nil
	})
	handle("POST /accounts", func(r *http.Request) (int, any, error) {
		var a Account
		if err := readJSON(r, &a); err != nil {
			return 0, nil, err
		}
		if err := s.AddAccount(a); err != nil {
			return 0, nil, badRequest(err)
		}
		return http.StatusOK, shown(s.Accounts()), nil
	})
	handle("GET /behaviour", func(*http.Request) (int, any, error) { return http.StatusOK, s.Behaviour(), nil })
	handle("PUT /behaviour", func(r *http.Request) (int, any, error) {
		var b Behaviour
		if err := readJSON(r, &b); err != nil {
			return 0, nil, err
		}
		if err := s.SetBehaviour(b); err != nil {
			return 0, nil, badRequest(err)
		}
		return http.StatusOK, s.Behaviour(), nil
	})
}

// shown returns accounts as the control API shows them: who they are and what they grant.
func shown(accounts []Account) []Consent {
	list := make([]Consent, 0, len(accounts))
	for _, a := range accounts {
		list = append(list, a.Consent)
	}
	return list
}
