package cursorstore

import (
	"errors"
	"testing"

	"github.com/audatex-relay/relay/internal/store"
)

// Of a removal that was only looked at, as its revision was not known, there is no error of the store.
func TestAResultHasAnError(t *testing.T) {
	t.Parallel()
	r := Result{}
	if r.note(store.Superseded, 7, "lane", nil); r.Epoch != 7 || !errors.Is(r.Err, store.ErrConflict) {
		t.Errorf("%+v", r)
	}
}
