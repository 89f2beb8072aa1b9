package cursorstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.Leftovers()...) }
