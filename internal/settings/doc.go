// Package settings has the relay's settings: the tags of kong describe which there are, and Check
// returns them checked.
//
// A setting that is missing or wrong is an Error that names it, and no error repeats a secret, or
// an address that may hold one. Begin reading at Serve, and at its Check.
package settings

import "fmt"

// Error is a setting that is missing or wrong.
type Error struct {
	Setting string // its variable, or a command's flag
	Err     error
}

func (e *Error) Error() string { return e.Setting + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Wrong returns an Error about a setting.
func Wrong(setting, format string, a ...any) error {
	return &Error{setting, fmt.Errorf(format, a...)}
}
