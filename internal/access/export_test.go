package access

// Merged is merged.
var Merged = merged
