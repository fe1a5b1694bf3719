package nginx

import (
	"bytes"
	"fmt"
	"strings"
)

// kind is what a token is.
type kind int

const (
	word  kind = iota // a name or parameter, quoted or not
	semi              // ;
	open              // {
	shut              // }
	atEnd             // end of the text
)

// token is one piece of an nginx configuration with its place in the text.
type token struct {
	kind       kind
	text       string // a word as nginx understands it: unquoted, escapes resolved
	start, end int    // byte span in the source, quotes included
}

// lexer splits a configuration into tokens by the same rules as nginx's own
// reader (ngx_conf_read_token): a quote only counts at the start of a word, a
// brace after $ belongs to a variable, a closing brace, a # or a quote inside
// a word is part of it, and a backslash takes the next byte with it.
type lexer struct {
	src []byte
	pos int
	// needSpace: a quoted word was read last; only a space, ; { or ) may
	// follow it.
	needSpace bool
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// next reads one token; after the last it returns atEnd for ever.
func (l *lexer) next() (token, error) {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if l.needSpace && !isSpace(c) && c != ';' && c != '{' && c != ')' {
			return token{}, syntaxError(l.src, l.pos, "unexpected %q after a quoted word", c)
		}
		l.needSpace = false
		switch {
		case isSpace(c):
			l.pos++
		case c == '#':
			l.skipComment()
		case c == ';':
			return l.single(semi), nil
		case c == '{':
			return l.single(open), nil
		case c == '}':
			return l.single(shut), nil
		case c == '"' || c == '\'':
			return l.quoted(c)
		default:
			return l.plain()
		}
	}
	return token{kind: atEnd, start: l.pos, end: l.pos}, nil
}

func (l *lexer) single(k kind) token {
	l.pos++
	return token{kind: k, start: l.pos - 1, end: l.pos}
}

func (l *lexer) skipComment() {
	if i := bytes.IndexByte(l.src[l.pos:], '\n'); i >= 0 {
		l.pos += i + 1
		return
	}
	l.pos = len(l.src)
}

// quoted reads a word in the quotes q.
func (l *lexer) quoted(q byte) (token, error) {
	start := l.pos
	for i := start + 1; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case q:
			l.pos = i + 1
			l.needSpace = true
			return token{kind: word, text: unescape(l.src[start+1 : i]), start: start, end: l.pos}, nil
		}
	}
	return token{}, syntaxError(l.src, start, "quote is not closed")
}

// plain reads a word without quotes.
func (l *lexer) plain() (token, error) {
	start := l.pos
	variable := false // the byte before was a $
	for i := start; i < len(l.src); i++ {
		c := l.src[i]
		if c == '{' && variable {
			continue
		}
		variable = false
		switch {
		case c == '\\':
			i++
		case c == '$':
			variable = true
		case isSpace(c) || c == ';' || c == '{':
			l.pos = i
			return token{kind: word, text: unescape(l.src[start:i]), start: start, end: i}, nil
		}
	}
	return token{}, syntaxError(l.src, start, "file ends inside a parameter")
}

// unescape resolves the escapes nginx knows in a word; others keep their
// backslash.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			out.WriteByte(b[i])
			continue
		}
		i++
		switch b[i] {
		case '"', '\'', '\\':
			out.WriteByte(b[i])
		case 't':
			out.WriteByte('\t')
		case 'r':
			out.WriteByte('\r')
		case 'n':
			out.WriteByte('\n')
		default:
			out.WriteByte('\\')
			out.WriteByte(b[i])
		}
	}
	return out.String()
}

// syntaxError is an ErrSyntax with the line (from 1) of a place in src.
func syntaxError(src []byte, at int, format string, args ...any) error {
	line := 1 + bytes.Count(src[:at], []byte{'\n'})
	return fmt.Errorf("%w: line %d: %s", ErrSyntax, line, fmt.Sprintf(format, args...))
}
