package topology

import "time"

// SetEvery sets how often the mark is checked.
func (v *Versions) SetEvery(d time.Duration) { v.every = d }
