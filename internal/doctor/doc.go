// Package doctor examines a relay: it says for each thing that it looks at whether it is well, what is wrong with it,
// and how to mend it. A running relay is examined from inside (Doctor), by what it has in memory and in its store, and
// by reaching out to the vendor and to the receivers; relay doctor asks it for that by the API, and examines by itself
// what can be seen without it.
//
// It promises to end in time whatever hangs, to look at no more than a bounded number of things, to change nothing, and
// to show no secret. Begin reading at Report, then at Doctor.Examine.
package doctor
