// Package each makes lists of what a function returns for each item of another list: the keys of some
// documents, or a client's callbacks as the API shows them. Such a list is never nil, and keeps the
// order. Begin reading at Of.
package each

// Of returns what f returns for each item of a list.
func Of[T, V any](list []T, f func(T) V) []V {
	out := make([]V, len(list))
	for i, item := range list {
		out[i] = f(item)
	}
	return out
}
