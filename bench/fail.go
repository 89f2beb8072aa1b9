package main

import (
	"errors"

	"golang.org/x/sync/errgroup"
)

// failure ends a measurement. As in a test that fails, what was deferred runs, and the run ends with the error.
type failure struct{ error }

// must ends the measurement under way if err is not nil. It must not be called by goroutines that a measurement starts.
func must(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// get returns v, or ends the measurement under way.
func get[T any](v T, err error) T {
	must(err)
	return v
}

// failed runs a measurement and returns the error that ended it, nil if it ran to its end.
func failed(measure func()) (err error) {
	defer func() {
		r := recover()
		f, ok := r.(failure)
		if r != nil && !ok {
			panic(r)
		}
		err = f.error
	}()
	measure()
	return nil
}

// end closes what a measurement has used. It is deferred, and keeps the error that has ended the measurement.
func end(closing func() error) {
	r := recover()
	f, ok := r.(failure)
	err := errors.Join(f.error, closing())
	if r != nil && !ok {
		panic(r)
	}
	must(err)
}

// spread calls do for each of n things, with several workers side by side, and returns an error that one of them
// returned. Things that are a multiple of workers apart are done by one worker, one after the other.
func spread(workers, n int, do func(worker, i int) error) error {
	var working errgroup.Group
	for w := range workers {
		working.Go(func() error {
			for i := w; i < n; i += workers {
				if err := do(w, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return working.Wait()
}
