package nginx

import (
	"fmt"
	"strings"
)

// maxDepth bounds how deep blocks may be nested; nginx's own modules nest
// four or five deep.
const maxDepth = 100

// directive is one directive with its place in the text.
type directive struct {
	words []token // the name and the parameters
	end   int     // after its ; or its }
	block *block  // nil for one that ends in ;
}

func (d directive) start() int   { return d.words[0].start }
func (d directive) name() string { return d.words[0].text }

// block is what stands between two braces, or the whole file.
type block struct {
	start, end int // after the opening and before the closing brace
	directives []directive
}

// parse reads a whole configuration file.
func parse(src []byte) (block, error) {
	l := &lexer{src: src}
	return parseBlock(l, 0)
}

func parseBlock(l *lexer, depth int) (block, error) {
	b := block{start: l.pos}
	if depth > maxDepth {
		return b, syntaxError(l.src, l.pos, "blocks are nested more than %d deep", maxDepth)
	}
	var words []token
	for {
		t, err := l.next()
		if err != nil {
			return b, err
		}
		if t.kind == word {
			words = append(words, t)
			continue
		}
		closes := t.kind == shut && depth > 0 || t.kind == atEnd && depth == 0
		begins := t.kind == semi || t.kind == open
		if closes && len(words) > 0 || begins && len(words) == 0 || !closes && !begins {
			return b, unexpected(l.src, t)
		}
		if closes {
			b.end = t.start
			return b, nil
		}
		d := directive{words: words, end: t.end}
		if t.kind == open {
			if d.block, err = parseBody(l, d.name(), depth); err != nil {
				return b, err
			}
			d.end = l.pos
		}
		b.directives = append(b.directives, d)
		words = nil
	}
}

// parseBody reads what follows an opening brace, up to and with the closing
// one.
func parseBody(l *lexer, name string, depth int) (*block, error) {
	if strings.HasSuffix(name, "_by_lua_block") {
		start := l.pos
		end, err := luaBlock(l.src, start)
		if err != nil {
			return nil, err
		}
		l.pos = end + 1
		return &block{start: start, end: end}, nil
	}
	body, err := parseBlock(l, depth+1)
	return &body, err
}

func unexpected(src []byte, t token) error {
	if t.kind == atEnd {
		return syntaxError(src, t.start, "file ends before ; or }")
	}
	return syntaxError(src, t.start, "unexpected %q", src[t.start])
}

// findUpstream finds the one upstream block of that name in a context. In a
// file that is included from inside the context the block stands at the top.
func findUpstream(file block, context Context, name string) (block, error) {
	var found []block
	look := func(b block) {
		for _, d := range b.directives {
			if d.name() == "upstream" && d.block != nil && len(d.words) == 2 && d.words[1].text == name {
				found = append(found, *d.block)
			}
		}
	}
	look(file)
	for _, d := range file.directives {
		if d.name() == string(context) && d.block != nil {
			look(*d.block)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return block{}, fmt.Errorf("%w: %s in %s", ErrUpstreamMissing, name, context)
	default:
		return block{}, fmt.Errorf("%w: %s in %s", ErrUpstreamTwice, name, context)
	}
}

// serverLines are the server directives of an upstream block.
func serverLines(b block) []directive {
	var lines []directive
	for _, d := range b.directives {
		if d.name() == "server" && d.block == nil && len(d.words) > 1 {
			lines = append(lines, d)
		}
	}
	return lines
}
