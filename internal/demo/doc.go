// Package demo shows the whole way of an order once, with real parts: the vendor's double, the
// relay, and a receiver that verifies. It compares what the receiver got with the double's ledger
// and reports a run in which anything was lost, came twice, came out of order or was altered. Begin
// reading at Run.
package demo
