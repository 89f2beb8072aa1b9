package backup

// Whole is whole, for tests.
var Whole = whole
