package shard

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaseIsValidForAsLongAsItsLastRenewalSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Lease{shard: 7, epoch: 3}
		if l.Valid() {
			t.Fatal("valid before the store has said so")
		}
		l.Renewed(time.Now(), 15*time.Second)
		<-time.After(15*time.Second - 1)
		if !l.Valid() {
			t.Fatal("not valid to its end")
		}
		<-time.After(1)
		if l.Valid() {
			t.Fatal("valid beyond its end")
		}
		l.Renewed(time.Now().Add(-4*time.Second), 15*time.Second) // the store took a renewal that was sent before
		<-time.After(11 * time.Second)
		if l.Valid() {
			t.Fatal("a renewal counts from when it was answered, not from when it was sent")
		}
	})
}
