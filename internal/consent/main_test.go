package consent

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m, natstest.Leftovers()...)
}
