package transitcheck

// Overlap reports whether some path matches the paths of both rules.
func Overlap(a, b string) bool { return overlap(pathPattern(a), pathPattern(b)) }
