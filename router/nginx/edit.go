package nginx

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// server is one line of an upstream block as it should be.
type server struct {
	address Address
	down    bool
}

// want is what an upstream block should hold.
type want struct {
	upstream *Upstream
	// keep: the block stays as it is, whatever it holds.
	keep bool
	// closed: every line there is is marked down. servers is empty then.
	closed  bool
	servers []server
	// note is for a person: why it is so, where that is not plain.
	note string
}

// change replaces the bytes from start to end.
type change struct {
	start, end int
	text       string
}

// edit returns src with the server lines of the owned upstreams as wanted.
// Everything outside the changed lines stays byte for byte. It returns src
// itself if nothing has to change.
func edit(src []byte, wants []want) ([]byte, error) {
	file, err := parse(src)
	if err != nil {
		return nil, err
	}
	var changes []change
	owner := map[int]*Upstream{} // by the block's place
	for _, w := range wants {
		b, err := findUpstream(file, w.upstream.Context, w.upstream.Name)
		if err != nil {
			return nil, err
		}
		if o := owner[b.start]; o != nil {
			return nil, fmt.Errorf("%w: one block is both %s's and %s's %s", ErrUpstreamTwice, o.Context, w.upstream.Context, o.Name)
		}
		owner[b.start] = w.upstream
		if !w.keep {
			changes = append(changes, editBlock(src, b, w)...)
		}
	}
	return rewrite(src, changes), nil
}

// rewrite makes the changes, which must not overlap.
func rewrite(src []byte, changes []change) []byte {
	if len(changes) == 0 {
		return src
	}
	slices.SortStableFunc(changes, func(a, b change) int { return a.start - b.start })
	var out bytes.Buffer
	at := 0
	for _, c := range changes {
		out.Write(src[at:c.start])
		out.WriteString(c.text)
		at = c.end
	}
	out.Write(src[at:])
	return out.Bytes()
}

// editBlock says what must change in one block. Lines that name a wanted
// address stay where they are; of the others, those that are all ours make room
// for the addresses not yet there, then go.
func editBlock(src []byte, b block, w want) []change {
	lines := serverLines(b)
	missing := slices.Clone(w.servers)
	var changes []change
	var unused []directive
	for _, d := range lines {
		at := slices.IndexFunc(w.servers, func(s server) bool {
			return s.address.text == lineAddress(d.words[1].text, w.upstream.Context)
		})
		switch {
		case w.closed:
			changes = append(changes, markDown(src, d, true)...)
		case at >= 0:
			s := w.servers[at]
			missing = slices.DeleteFunc(missing, func(m server) bool { return m.address == s.address })
			changes = append(changes, markDown(src, d, s.down)...)
		case isPlain(src, d, w.upstream):
			unused = append(unused, d)
		default:
			changes = append(changes, markDown(src, d, true)...)
		}
	}
	for _, d := range unused {
		if len(missing) == 0 {
			changes = append(changes, removeLine(src, d))
			continue
		}
		changes = append(changes, change{d.words[1].start, d.words[1].end, missing[0].address.text})
		changes = append(changes, markDown(src, d, missing[0].down)...)
		missing = missing[1:]
	}
	if len(missing) > 0 {
		changes = append(changes, insertLines(src, b, lines, w.upstream, missing))
	}
	return changes
}

// parameters are what a new server line says beside its address. For MySQL the
// agents know better than nginx's counting of failed connections, which would
// shut out a primary for ten seconds after one refused connection.
func parameters(u *Upstream) string {
	if u.Role == RW || u.Role == RO {
		return " max_fails=0"
	}
	return ""
}

// isPlain tells whether a line holds nothing that a person gave it: no
// parameter of theirs and no comment inside it.
func isPlain(src []byte, d directive, u *Upstream) bool {
	for _, t := range d.words[2:] {
		if t.text != "down" && t.text != strings.TrimSpace(parameters(u)) {
			return false
		}
	}
	last := d.words[len(d.words)-1]
	between := src[last.end : d.end-1]
	for i, t := range d.words[1:] {
		between = append(between[:len(between):len(between)], src[d.words[i].end:t.start]...)
	}
	return isBlank(between)
}

// markDown adds or removes the parameter "down".
func markDown(src []byte, d directive, down bool) []change {
	var changes []change
	found := false
	for i, t := range d.words[2:] {
		if t.text != "down" {
			continue
		}
		found = true
		if down {
			continue
		}
		start := t.start
		if before := d.words[i+1].end; len(bytes.TrimSpace(src[before:start])) == 0 {
			start = before
		}
		changes = append(changes, change{start, t.end, ""})
	}
	if down && !found {
		last := d.words[len(d.words)-1].end
		changes = append(changes, change{last, last, " down"})
	}
	return changes
}

// lineStart is the first byte of the line that holds the byte at.
func lineStart(src []byte, at int) int {
	return bytes.LastIndexByte(src[:at], '\n') + 1
}

// lineEnd is the first byte after the line that holds the byte at, which is
// after its newline.
func lineEnd(src []byte, at int) int {
	if i := bytes.IndexByte(src[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(src)
}

func isBlank(b []byte) bool { return len(bytes.TrimSpace(b)) == 0 }

// removeLine takes a directive out, with its line if it stands there alone.
func removeLine(src []byte, d directive) change {
	start, end := lineStart(src, d.start()), lineEnd(src, d.end)
	if isBlank(src[start:d.start()]) && isBlank(src[d.end:end]) && src[end-1] == '\n' {
		return change{start, end, ""}
	}
	return change{d.start(), d.end, ""}
}

// insertLines adds server lines after the last one there is, in its own
// fashion: on lines of their own if it stands on one.
func insertLines(src []byte, b block, lines []directive, u *Upstream, servers []server) change {
	after, indent := b.start, "    "
	if len(lines) > 0 {
		last := lines[len(lines)-1]
		after = last.end
		if before := src[lineStart(src, last.start()):last.start()]; isBlank(before) {
			indent = string(before)
		}
	} else {
		before := src[lineStart(src, b.start):b.start]
		indent = string(before[:len(before)-len(bytes.TrimLeft(before, " \t"))]) + indent
	}
	at := lineEnd(src, after)
	rest := bytes.TrimSpace(src[after:at])
	ownLine := at <= b.end && (len(rest) == 0 || rest[0] == '#')
	newline := "\n"
	if bytes.HasSuffix(src[:at], []byte("\r\n")) {
		newline = "\r\n"
	}
	var text strings.Builder
	for _, s := range servers {
		line := "server " + s.address.text + parameters(u)
		if s.down {
			line += " down"
		}
		if ownLine {
			text.WriteString(indent + line + ";" + newline)
		} else {
			text.WriteString(" " + line + ";")
		}
	}
	if !ownLine {
		at = after
	}
	return change{at, at, text.String()}
}
