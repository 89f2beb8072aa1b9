package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/audatex-relay/relay/internal/pasted"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// minAdminToken keeps a token that can be guessed from opening everything.
	minAdminToken = 16
	maxAdminToken = 512
	// maxAdmins bounds what the token of every request is compared with.
	maxAdmins = 100
)

// Admin is one administrator: a name, by which the log shows who did something, and a token.
type Admin struct {
	Name  string
	Token string
}

// String keeps the token out of formatted text.
func (a Admin) String() string { return a.Name }

// GoString keeps the token out of %#v.
func (a Admin) GoString() string { return a.Name }

// LogValue keeps the token out of every log.
func (a Admin) LogValue() slog.Value { return slog.StringValue(a.Name) }

// ParseAdmins reads administrators as name:token, separated by commas or line ends. Errors repeat
// no token; they name an entry by its number, as what stands in the place of the name may be a
// token.
func ParseAdmins(text string) ([]Admin, error) {
	var admins []Admin
	n := 0
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		entry, _, err := pasted.Clean(entry, pasted.Secret)
		if err == nil && entry == "" {
			continue
		}
		n++
		if err != nil {
			return nil, fmt.Errorf("entry %d %w", n, err)
		}
		name, token, found := strings.Cut(entry, ":")
		if !found {
			return nil, fmt.Errorf("entry %d has no name: give name:token, and several of them separated by commas", n)
		}
		name = strings.TrimSpace(name)
		if err := relay.CheckName(name); err != nil {
			return nil,
				fmt.Errorf("the name of entry %d must be lower-case letters, digits and hyphens, at most 63: give "+
					"name:token", n)
		}
		if token, _, err = pasted.Clean(token, pasted.Secret); err != nil {
			return nil, fmt.Errorf("the token of %s %w", name, err)
		}
		admins = append(admins, Admin{name, token})
	}
	return admins, nil
}

// CheckAdmins refuses administrators of whom two have the same name or the same token, and tokens
// that cannot be used.
func CheckAdmins(admins []Admin) error {
	if len(admins) > maxAdmins {
		return fmt.Errorf("has %d tokens, at most %d are possible", len(admins), maxAdmins)
	}
	for i, a := range admins {
		if err := CheckAdminToken(a.Token); err != nil {
			return fmt.Errorf("the token of %s %w", a.Name, err)
		}
		for _, before := range admins[:i] {
			switch {
			case before.Name == a.Name:
				return fmt.Errorf("the name %s is given twice: give each token a name of its own, such as %s-2 for "+
					"the next one", a.Name, a.Name)
			case before.Token == a.Token:
				return fmt.Errorf("%s and %s have the same token: then nobody can tell who it was", before.Name, a.Name)
			}
		}
	}
	return nil
}

// CheckAdminToken refuses a token that can be guessed or that cannot be sent.
func CheckAdminToken(token string) error {
	if len(token) < minAdminToken {
		return fmt.Errorf("has %d characters, at least %d are needed", len(token), minAdminToken)
	}
	if len(token) > maxAdminToken {
		return fmt.Errorf("has %d characters, at most %d are possible", len(token), maxAdminToken)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("holds a space, a line break or a character outside ASCII, which a bearer token cannot")
	}
	return nil
}

// Admins checks the tokens of administrators. They may be replaced at any time.
type Admins struct {
	known atomic.Pointer[[]knownAdmin]
}

// knownAdmin is an administrator without the token.
type knownAdmin struct {
	name string
	sum  [sha256.Size]byte
}

// NewAdmins returns Admins that accept these administrators.
func NewAdmins(admins []Admin) *Admins {
	a := &Admins{}
	a.Replace(admins)
	return a
}

// Replace accepts these administrators and no others. It returns the names of those who are new or
// have another token, and of those who are gone.
func (a *Admins) Replace(admins []Admin) (added, removed []string) {
	next := make([]knownAdmin, len(admins))
	for i, admin := range admins {
		next[i] = knownAdmin{admin.Name, sha256.Sum256([]byte(admin.Token))}
	}
	var before []knownAdmin
	if p := a.known.Swap(&next); p != nil {
		before = *p
	}
	for _, k := range next {
		if !slices.Contains(before, k) {
			added = append(added, k.name)
		}
	}
	for _, k := range before {
		if !slices.Contains(next, k) {
			removed = append(removed, k.name)
		}
	}
	return added, removed
}

// Lookup returns whose token it is. It takes as long for any token: all are compared, each in
// constant time.
func (a *Admins) Lookup(token string) (name string, ok bool) {
	if len(token) > maxAdminToken {
		return "", false
	}
	sum := sha256.Sum256([]byte(token))
	for _, k := range *a.known.Load() {
		if subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 {
			name, ok = k.name, true
		}
	}
	return name, ok
}

// Has reports whether there is an administrator of this name.
func (a *Admins) Has(name string) bool {
	return slices.ContainsFunc(*a.known.Load(), func(k knownAdmin) bool { return k.name == name })
}
