package audatex

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
)

func TestReadMe(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]Me{
		`{"SiteId":"4711","CompanyCode":"C1","TerminalId":"T1","UserName":"somebody","EmailAddress":"a@b"}`: {"4711",
			"C1", "T1"},
		`{"siteId":4711,"companyCode":12,"terminalId":null}`: {"4711",
			"12", ""},
		"\xef\xbb\xbf [{\"SITEID\":\" 4711 \"}]":                          {"4711", "", ""},
		`{"SiteId":"47\u000011","CompanyCode":["x"]}`:                     {"4711", "", ""},
		`{"SiteId":"` + strings.Repeat("4", 65) + `","CompanyCode":"C1"}`: {},
		`{"SiteId":{"x":1}}`:                                              {}, `{"CompanyCode":"C1"}`: {}, `"4711"`: {},
		`null`: {}, ``: {}, `<html>`: {}, `{`: {},
	} {
		got, ok := readMe([]byte(body))
		if ok != (want != Me{}) || ok && got != want {
			t.Errorf("%s: %+v %v, want %+v", body, got, ok, want)
		}
	}
}

func TestWhereTheUserIs(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{
		"https://audaconnect.ax-aee.co.uk/AudaAPI.BMSAPI": "https://audaconnect.ax-aee.co.uk/AudaAPI.WebAPI/api/users/me",
		"https://proxy.example/vendor/AudaAPI.BMSAPI/":    "https://proxy.example/vendor/AudaAPI.WebAPI/api/users/me",
		"http://127.0.0.1:8090":                           "http://127.0.0.1:8090/AudaAPI.WebAPI/api/users/me",
		"http://127.0.0.1:8090/":                          "http://127.0.0.1:8090/AudaAPI.WebAPI/api/users/me",
	} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		if got := meURL(u); got != want {
			t.Errorf("%s: %s, want %s", base, got, want)
		}
	}
}

func TestScopesOfATokenAnswer(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":"BMS.Basic BMS.PartsOrders"}`:          "BMS.Basic|BMS.PartsOrders",
		`{"access_token":"access-1","refresh_token":"refresh-1","Scope":" BMS.Basic,BMS.PartsOrders "}`:        "BMS.Basic|BMS.PartsOrders",
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":["BMS.Basic","BMS.PartsOrders"]}`:      "BMS.Basic|BMS.PartsOrders",
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":[1]}`:                                  "",
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":12345678}`:                             "",
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":""}`:                                   "",
		`{"access_token":"access-1","refresh_token":"refresh-1"}`:                                              "",
		`{"access_token":"access-1","refresh_token":"refresh-1","scope":"` + strings.Repeat("x", 70000) + `"}`: "",
		`access_token=access-1&refresh_token=refresh-1&scope=BMS.Basic+BMS.PartsOrders`:                        "BMS.Basic|BMS.PartsOrders",
	} {
		a := readTokenAnswer([]byte(body))
		if got := strings.Join(a.scopes, "|"); got != want || a.refresh.Reveal() != "refresh-1" ||
			a.access.Reveal() != "access-1" {
			t.Errorf("%.120s: %q %v", body, got, a)
		}
	}
}

func FuzzMe(f *testing.F) {
	f.Add([]byte(`{"SiteId":"4711","CompanyCode":"C1","TerminalId":"T1"}`))
	f.Add([]byte(`[{"siteid":4711}]`))
	f.Add([]byte("\xef\xbb\xbf{\"SiteId\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		me, ok := readMe(body)
		if ok != (me.SiteID != "") {
			t.Errorf("%+v, %v", me, ok)
		}
		for _, id := range []string{me.SiteID, me.CompanyCode, me.TerminalID} {
			if len(id) > maxMeID || strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is an id", id)
			}
		}
	})
}
