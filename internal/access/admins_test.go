package access

import (
	"fmt"
	"strings"
	"testing"
)

func TestAdministratorsAreReadByNameAndNoTokenIsRepeatedInAnError(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef"
	for _, tt := range []struct{ text, want, err string }{
		{text: "", want: "[]"},
		{text: "ops:" + secret, want: "[ops]"},
		{text: " ops:" + secret + " ,\tnight: " + secret + "x \r\n", want: "[ops night]"},
		{text: "ops:" + secret + "\r\nnight:" + secret + "x\n\n", want: "[ops night]"},
		{text: "\ufeffops:a:b:" + secret, want: "[ops]"},
		{text: secret, err: "entry 1 has no name"},
		{text: "ops:" + secret + "," + secret, err: "entry 2 has no name"},
		{text: secret + "_:x", err: "the name of entry 1 must be lower-case"},
		{text: "Ops:" + secret, err: "the name of entry 1 must be lower-case"},
		{text: `"ops:` + secret + `"`, err: "entry 1 is in quotes"},
		{text: `ops:"` + secret + `"`, err: "the token of ops is in quotes"},
		{text: "ops:" + secret + "\x00", err: "entry 1 holds a control character"},
		{text: "ops:", err: "the token of ops has 0 characters"},
		{text: "ops:" + secret[:15], err: "the token of ops has 15 characters"},
		{text: "ops:" + strings.Repeat(secret, 33), err: "at most 512"},
		{text: "ops:" + secret + " x", err: "the token of ops holds a space"},
		{text: "ops:" + secret + ",ops:" + secret + "x", err: "the name ops is given twice"},
		{text: "ops:" + secret + ",night:" + secret, err: "ops and night have the same token"},
		{text: "ops:" + strings.Repeat(secret+",n:", 1), err: "the token of n has 0"},
	} {
		admins, err := ParseAdmins(tt.text)
		if err == nil {
			err = CheckAdmins(admins)
		}
		switch {
		case tt.err == "" && (err != nil || fmt.Sprint(admins) != tt.want):
			t.Errorf("%q: %v, %v; want %s", tt.text, admins, err, tt.want)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%q: %v, want an error with %q", tt.text, err, tt.err)
		case err != nil && strings.Contains(err.Error(), secret[:15]):
			t.Errorf("%q: the token is in the error: %v", tt.text, err)
		}
	}
	many := make([]Admin, 101)
	for i := range many {
		many[i] = Admin{fmt.Sprint("a", i), fmt.Sprint(secret, i)}
	}
	if CheckAdmins(many[:100]) != nil || CheckAdmins(many) == nil {
		t.Error("the number of administrators is not bounded at 100")
	}
	if text := fmt.Sprintf("%v %+v %#v %s", many[0], many, many, many[0].LogValue()); strings.Contains(text, secret) {
		t.Errorf("a token is in the formatted text: %s", text)
	}
}

// Two tokens side by side, then the old one goes: nobody who uses either is refused meanwhile.
func TestATokenIsReplacedWithoutDowntime(t *testing.T) {
	t.Parallel()
	old, next := Admin{"ops", "an-old-token-of-ops"}, Admin{"ops-2", "the-next-token-of-ops"}
	a := NewAdmins([]Admin{old})
	known := func(token, want string) {
		t.Helper()
		if name, ok := a.Lookup(token); name != want || ok != (want != "") {
			t.Errorf("%s is %q's, want %q", token, name, want)
		}
	}
	known(old.Token, "ops")
	known(next.Token, "")
	known("", "")
	known(strings.Repeat("x", 10_000), "")
	if added, removed := a.Replace([]Admin{old, next}); fmt.Sprint(added, removed) != "[ops-2] []" {
		t.Errorf("added %v, removed %v", added, removed)
	}
	known(old.Token, "ops")
	known(next.Token, "ops-2")
	if added, removed := a.Replace([]Admin{next}); fmt.Sprint(added, removed) != "[] [ops]" {
		t.Errorf("added %v, removed %v", added, removed)
	}
	known(old.Token, "")
	known(next.Token, "ops-2")
	if a.Has("ops") || !a.Has("ops-2") {
		t.Error("ops is still known, or ops-2 is not")
	}
}
