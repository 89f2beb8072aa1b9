package audatex

import "testing"

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
