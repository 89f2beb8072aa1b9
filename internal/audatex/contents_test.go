package audatex

import (
	"strings"
	"testing"
)

func TestAnElementWithEmptyFieldsIsNoNotification(t *testing.T) {
	t.Parallel()
	for body, foreign := range map[string]bool{
		`[{}]`:                                   true,
		`[{"Topic":null,"NotificationId":null}]`: true,
		`[{"Topic":"","Resources":[]}]`:          true,
		`[{"Topic":" ","EventType":"","Resources":null,"ResourceUris":{}}]`:                  false, // " " is something
		`[{"NotificationId":"","Topic":"","Resources":[],"Message":"down"}]`:                 true,
		`[{"Topic":"","Resources":[{}]}]`:                                                    false,
		`[{"Topic":"PARTS.ORDER"}]`:                                                          false,
		`[{"Topic":""},{"NotificationId":"1","Topic":"","ResourceUris":[{"Value":"/x/y"}]}]`: false,
		`{"Message":"Maintenance","Topic":""}`:                                               true,
	} {
		if got := ReadContents(Page{Body: []byte(body)}); got.Foreign != foreign {
			t.Errorf("%s: foreign %v, want %v", body, got.Foreign, foreign)
		}
	}
}

// A reader of a page that is foreign finds what came among its elements, also if it is nothing but
// a bracket.
func TestForeignPageHasAnElement(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"[", "[" + strings.Repeat(" ", 1<<20), "<ArrayOfNotificationMessage>", "<html>", "{}",
		"[{}]"} {
		c := ReadContents(Page{Body: []byte(body)})
		if !c.Foreign || len(c.List) != 1 || len(c.List[0].Raw) == 0 || c.Entries() != 1 {
			t.Errorf("%.40q: %+v", body, c)
		}
	}
}
