package httpapi

import (
	"encoding/json"
	"fmt"
)

// patched applies a merge patch to settings and checks the result against the settings' own schema,
// so that a patch cannot make anything that a PUT could not. The pointers in its errors are the
// same for both.
func patched[T any](a *API, settings T, patch []byte, schemaName string) (T, error) {
	var out T
	merged, err := merge(settings, patch)
	if err != nil {
		return out, err
	}
	value, err := readJSON(merged)
	if err != nil {
		return out, err
	}
	if errs := a.contract.fieldErrors(a.contract.settings[schemaName].Validate(value)); len(errs) > 0 {
		return out, invalid(errs...)
	}
	if err := json.Unmarshal(merged, &out); err != nil {
		return out, fmt.Errorf("read patched settings that were found valid: %w", err)
	}
	return out, nil
}
