// Package doctor examines a relay: it reports of each thing that it looks at whether it is well, what is wrong with it,
// and how to mend it. It promises to end in time whatever hangs, to look at no more than a bounded number of things, to
// change nothing, and to show no secret. Begin reading at Report, then at Doctor.Examine.
package doctor
