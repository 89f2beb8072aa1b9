package relay

import "strings"

// Kind is the subject of an operational event. Its type is OperationalPrefix + Kind.
type Kind string

// The operational events. The table below has who may see which.
const (
	KindConsentRequired     Kind = "consent-required"
	KindConsentRestored     Kind = "consent-restored"
	KindSubscriptionAdopted Kind = "subscription-adopted"
	KindCallbackDisabled    Kind = "callback-disabled"
	KindCallbackFailing     Kind = "callback-failing"
	KindCallbackRecovered   Kind = "callback-recovered"
	KindDeliveryFailed      Kind = "delivery-failed"
	KindOrderUnresolved     Kind = "order-unresolved"
	KindGapSuspected        Kind = "gap-suspected"
	KindReconciled          Kind = "reconciled"
	KindSiteUnknown         Kind = "site-unknown"
	KindDeliveriesExpired   Kind = "deliveries-expired"
	KindLogClamped          Kind = "log-clamped"
	KindKeyExpiring         Kind = "key-expiring"
)

// audience is who may see the events of a kind.
type audience int

const (
	// shared: everybody who may see the event's site.
	shared audience = iota
	// private: the client that details.client and details.clientGeneration name, for any site. Nobody on NATS, where
	// it is unknown whose it is.
	private
	// privateToOthers: as private, but never delivered to the callback that it is about.
	privateToOthers
	// privateNotToReaders: as private, but not in what keys of role read see.
	privateNotToReaders
)

// kinds is the one table of operational events. Filters, the feed, callbacks, the permissions and the copy on NATS, and
// the tests of the documents all read it.
var kinds = []struct {
	kind Kind
	of   audience
}{
	{KindConsentRequired, shared},
	{KindConsentRestored, shared},
	{KindSubscriptionAdopted, shared},
	{KindCallbackDisabled, privateToOthers},
	{KindCallbackFailing, privateToOthers},
	{KindCallbackRecovered, privateToOthers},
	{KindDeliveryFailed, privateToOthers},
	{KindOrderUnresolved, shared},
	{KindGapSuspected, shared},
	{KindReconciled, shared},
	{KindSiteUnknown, shared},
	{KindDeliveriesExpired, privateToOthers},
	{KindLogClamped, shared},
	{KindKeyExpiring, privateNotToReaders}, // it names a key, and only other roles have to do with keys
}

// Kinds returns all kinds of operational events.
func Kinds() []Kind { return kindsOf(shared, private, privateToOthers, privateNotToReaders) }

// PrivateKinds returns those that only one client may see.
func PrivateKinds() []Kind { return kindsOf(private, privateToOthers, privateNotToReaders) }

// SharedKinds returns those that everybody may see who may see the event's site.
func SharedKinds() []Kind { return kindsOf(shared) }

func kindsOf(audiences ...audience) (list []Kind) {
	for _, k := range kinds {
		for _, a := range audiences {
			if k.of == a {
				list = append(list, k.kind)
			}
		}
	}
	return list
}

// KindOf returns the kind of an operational event's type; false if the type is no such one.
func KindOf(typ string) (Kind, bool) {
	kind, operational := strings.CutPrefix(typ, OperationalPrefix)
	return Kind(kind), operational
}

// Private reports whether only the client that the event's details name may see events of this kind.
func (k Kind) Private() bool { return k.audience() != shared }

// NotToItself reports whether events of this kind are about a callback, to which they are never delivered.
func (k Kind) NotToItself() bool { return k.audience() == privateToOthers }

// NotToReaders reports whether keys of role read do not see events of this kind.
func (k Kind) NotToReaders() bool { return k.audience() == privateNotToReaders }

func (k Kind) audience() audience {
	for i := range kinds {
		if kinds[i].kind == k {
			return kinds[i].of
		}
	}
	return shared
}
