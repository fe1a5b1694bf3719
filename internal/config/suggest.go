package config

import (
	"reflect"
	"strings"
)

// suggestKey says what an unknown key was probably meant to be: a sibling
// spelled alike, or the same key in another section.
func suggestKey(path, key string, siblings []field) string {
	names := make([]string, len(siblings))
	for i, f := range siblings {
		names[i] = f.key
	}
	if near := nearestWord(key, names); near != "" {
		return "did you mean " + near + "?"
	}
	if elsewhere := findElsewhere("", key, reflect.TypeFor[Config]()); elsewhere != "" && elsewhere != join(path, key) {
		return "it belongs at " + elsewhere
	}
	return "the keys here are " + strings.Join(names, ", ")
}

// findElsewhere looks for a section that has the key.
func findElsewhere(path, key string, t reflect.Type) string {
	for _, f := range fields(t) {
		if f.key == key {
			return join(path, key)
		}
	}
	for _, f := range fields(t) {
		inner, below := f.kind, join(path, f.key)
		if f.isSectionList() {
			below += "[]"
		}
		if f.kind.Kind() == reflect.Pointer || f.isSectionList() {
			inner = f.kind.Elem()
		}
		if inner.Kind() != reflect.Struct {
			continue
		}
		if found := findElsewhere(below, key, inner); found != "" {
			return found
		}
	}
	return ""
}

// nearestWord is the word that differs least from s, if it differs little
// enough to be a slip: at most a third of its letters.
func nearestWord(s string, words []string) string {
	best, bestDistance := "", len(s)
	for _, w := range words {
		limit := max(1, max(len(s), len(w))/3)
		if d := distance(s, w); d <= limit && d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	beforeLast := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], beforeLast[j-2]+1)
			}
		}
		beforeLast, last = last, row
	}
	return last[len(b)]
}

// keyList names the keys of a section.
func keyList(t reflect.Type) string {
	var names []string
	for _, f := range fields(t) {
		names = append(names, f.key)
	}
	return strings.Join(names, ", ")
}

// alternatives prints "a", "a or b", "a, b or c".
func alternatives(values []string) string {
	if len(values) < 2 {
		return strings.Join(values, "")
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}
