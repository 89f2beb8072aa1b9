package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Account is somebody who can sign in at the portal: the consent that they give if they allow it,
// and their password. Their scopes are the most that they can grant; nil means everything that a
// client asks for.
type Account struct {
	Consent

	Password string `json:"password"`
}

// The account that exists unless others are configured: of site 4711 and company C4711.
const (
	DefaultCompany  = "C4711"
	DefaultUser     = "bms.4711"
	DefaultPassword = "sandbox"
)

// String describes the account without its password.
func (a Account) String() string {
	return fmt.Sprintf("%s of %s, %s %v (password withheld)", a.User, a.CompanyCode, a.Level, a.Sites)
}

// GoString keeps the password out of %#v as well.
func (a Account) GoString() string { return a.String() }

// LogValue keeps the password out of logs.
func (a Account) LogValue() slog.Value { return slog.StringValue(a.String()) }

// is reports whether the account has this name. Case is ignored, as in Windows.
func (a Account) is(company, user string) bool {
	return strings.EqualFold(a.CompanyCode, company) && strings.EqualFold(a.User, user)
}

// SetAccounts replaces everybody who can sign in. If an account has no password, or two have the
// same company code and user, it returns an error and changes nothing. Browsers that are signed in
// stay signed in.
func (s *Sandbox) SetAccounts(accounts ...Account) error {
	full, err := s.completeAccounts(accounts)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts = full
	return nil
}

// AddAccount adds somebody who can sign in. It replaces an account with the same company code and
// user.
func (s *Sandbox) AddAccount(a Account) error {
	full, err := s.completeAccounts([]Account{a})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a = full[0]
	same := func(x Account) bool { return x.is(a.CompanyCode, a.User) }
	s.accounts = append(slices.DeleteFunc(slices.Clone(s.accounts), same), a)
	return nil
}

// Accounts returns everybody who can sign in, without their passwords.
func (s *Sandbox) Accounts() []Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := slices.Clone(s.accounts)
	for i := range accounts {
		accounts[i].Password = ""
	}
	return accounts
}

func (s *Sandbox) completeAccounts(accounts []Account) ([]Account, error) {
	full := make([]Account, 0, len(accounts))
	for _, a := range accounts {
		if a.Password == "" {
			return nil, errors.New("an account needs a password")
		}
		consent, err := s.complete(a.Consent)
		if err != nil {
			return nil, err
		}
		consent.Scopes = slices.Clone(a.Scopes) // nil stays nil
		a.Consent = consent
		if slices.ContainsFunc(full, func(x Account) bool { return x.is(a.CompanyCode, a.User) }) {
			return nil, fmt.Errorf("company %q has two users %q", a.CompanyCode, a.User)
		}
		full = append(full, a)
	}
	return full, nil
}

// signIn returns the account with these credentials. The caller must hold mu.
func (s *Sandbox) signIn(company, user, password string) (Account, bool) {
	company, user = strings.TrimSpace(company), strings.TrimSpace(user)
	i := slices.IndexFunc(s.accounts, func(a Account) bool { return a.is(company, user) })
	if i < 0 || s.accounts[i].Password != password {
		s.tally.SignInsRefused++
		return Account{}, false
	}
	return s.accounts[i], true
}
