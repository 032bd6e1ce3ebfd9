package delegation

// Append writes the text of the map's file behind b: exactly the form of the
// package documentation. Parse reads the same tree from it when it has no more
// than MaxNodes places.
func (m Map) Append(b []byte) []byte {
	if len(m.Self.Below) == 0 {
		return append(b, "--- {}\n"...)
	}
	return appendLevel(append(b, "---\n"...), m.Self.Below, 0)
}

// String gives the text of the map's file.
func (m Map) String() string { return string(m.Append(nil)) }

func appendLevel(b []byte, nodes []Node, depth int) []byte {
	for i := range nodes {
		n := &nodes[i]
		for range depth {
			b = append(b, "    "...)
		}
		if needsQuotes(n.Name) {
			b = append(append(append(b, '\''), n.Name...), '\'')
		} else {
			b = append(b, n.Name...)
		}
		if len(n.Below) == 0 {
			b = append(b, ": {}\n"...)
			continue
		}
		b = appendLevel(append(b, ":\n"...), n.Below, depth+1)
	}
	return b
}

// needsQuotes says whether a name is quoted: when it begins with a digit, as
// Func writes it, and when YAML 1.1 would read something else than a name.
func needsQuotes(name string) bool {
	switch name {
	case "", "null", "true", "false", "yes", "no", "on", "off":
		return true
	}
	return name[0] >= '0' && name[0] <= '9'
}
