package backup

import (
	"maps"

	"github.com/audatex-relay/relay/internal/store"
)

// For tests.
var (
	Whole     = whole
	Subjects  = subjects
	DeleteAll = deleteAll
)

// ListSubjects is listSubjects over pages that are made of what there is at the moment.
func ListSubjects(overlap int, page func(offset int) (total int, subjects map[string]uint64)) (map[string]bool, error) {
	return listSubjects(overlap, func(offset int) (p subjectsPage, _ error) {
		p.Total, p.State.Subjects = page(offset)
		p.State.Subjects = maps.Clone(p.State.Subjects)
		return p, nil
	})
}

// Write is write.
func (m Manifest) Write(dir string, keys *store.Sealer) error { return m.write(dir, keys) }
