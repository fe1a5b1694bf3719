package gtid

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrMalformed is wrapped by every error of Parse. The text is not a GTID set
// of MySQL; the error names the offending part.
var ErrMalformed = errors.New("malformed GTID set")

const (
	uuidLength   = 36
	maxTagLength = 32
)

// Parse reads a GTID set as servers print it and people write it: any order,
// overlaps, upper case, white space and line breaks between its parts, empty
// parts between commas. An interval that ends before it begins (5-1) is empty,
// as it is to the server. The error wraps ErrMalformed.
func Parse(text string) (Set, error) {
	numbers := map[source][]interval{}
	for _, field := range strings.Split(text, ",") {
		if field = strings.TrimSpace(field); field == "" {
			continue
		}
		if err := parseField(field, numbers); err != nil {
			return Set{}, err
		}
	}
	var parts []part
	for src, list := range numbers {
		if list = normalize(list); len(list) > 0 {
			parts = append(parts, part{src, list})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return a.compare(b.source) })
	return Set{parts: parts}, nil
}

// MustParse is Parse for constants; it panics where Parse returns an error.
func MustParse(text string) Set {
	s, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

// parseField reads one uuid:[tag:]interval[:…] into numbers.
func parseField(field string, numbers map[source][]interval) error {
	words := strings.Split(field, ":")
	uuid := strings.ToLower(strings.TrimSpace(words[0]))
	if !isUUID(uuid) {
		return malformed("server uuid", words[0], field)
	}
	src := source{uuid: uuid}
	needed := true // a uuid and a tag must be followed by an interval
	for _, word := range words[1:] {
		word = strings.ToLower(strings.TrimSpace(word))
		if isTag(word) {
			if needed && src.tag != "" {
				return malformed("interval", word, field)
			}
			src.tag, needed = word, true
			continue
		}
		iv, err := parseInterval(word)
		if err != nil {
			return malformed("interval", word, field)
		}
		needed = false
		if iv.first <= iv.last {
			numbers[src] = append(numbers[src], iv)
		}
	}
	if needed {
		return malformed("interval", "", field)
	}
	return nil
}

func malformed(what, word, field string) error {
	return fmt.Errorf("%w: bad %s %q in %q", ErrMalformed, what, word, field)
}

// parseInterval reads n or n-m. Like the server it takes an end of 0, which
// makes the interval empty, but no beginning of 0.
func parseInterval(word string) (interval, error) {
	from, to, ranged := strings.Cut(word, "-")
	first, err := parseNumber(from)
	if err != nil || first == 0 {
		return interval{}, ErrMalformed
	}
	if !ranged {
		return interval{first, first}, nil
	}
	last, err := parseNumber(to)
	return interval{first, last}, err
}

func parseNumber(word string) (uint64, error) {
	word = strings.TrimSpace(word)
	if strings.HasPrefix(word, "+") {
		return 0, ErrMalformed
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil || n > maxNumber {
		return 0, ErrMalformed
	}
	return n, nil
}

// isUUID tells whether s is a uuid with its dashes, in lower case.
func isUUID(s string) bool {
	if len(s) != uuidLength {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

// isTag tells whether s is a tag: a letter or underscore, then letters,
// digits and underscores, 32 at most.
func isTag(s string) bool {
	if s == "" || len(s) > maxTagLength || (s[0] >= '0' && s[0] <= '9') {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
