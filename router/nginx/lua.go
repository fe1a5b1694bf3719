package nginx

import "bytes"

// luaBlock finds the closing brace of a Lua block whose code begins at pos.
// Braces in Lua's strings and comments don't count, as in the Lua module's own
// reader.
func luaBlock(src []byte, pos int) (int, error) {
	depth := 0
	for i := pos; i < len(src); i++ {
		switch c := src[i]; {
		case c == '{':
			depth++
		case c == '}':
			if depth == 0 {
				return i, nil
			}
			depth--
		case c == '"' || c == '\'':
			i = luaString(src, i)
		case c == '[' || bytes.HasPrefix(src[i:], []byte("--")):
			i = luaLong(src, i)
		}
	}
	return 0, syntaxError(src, pos, "Lua block is not closed")
}

// luaString returns the place of the quote that closes the string at i.
func luaString(src []byte, i int) int {
	q := src[i]
	for i++; i < len(src) && src[i] != q; i++ {
		if src[i] == '\\' {
			i++
		}
	}
	return i
}

// luaLong returns the last byte of the comment or long string at i, or i
// itself if it is just a bracket.
func luaLong(src []byte, i int) int {
	comment := src[i] == '-'
	at := i
	if comment {
		at += 2
	}
	if at < len(src) && src[at] == '[' {
		level := at + 1
		for level < len(src) && src[level] == '=' {
			level++
		}
		if level < len(src) && src[level] == '[' {
			closing := append(append([]byte{']'}, src[at+1:level]...), ']')
			if n := bytes.Index(src[level:], closing); n >= 0 {
				return level + n + len(closing) - 1
			}
			return len(src)
		}
	}
	if !comment {
		return i
	}
	if n := bytes.IndexByte(src[at:], '\n'); n >= 0 {
		return at + n
	}
	return len(src)
}
