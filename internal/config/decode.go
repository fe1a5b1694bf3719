package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder turns the syntax tree of a file into a Config. It remembers where
// each key was, so that later checks can name its line too, and goes on after
// a fault. The library's own decoder stops at the first one.
type decoder struct {
	file   string
	faults Faults
	places map[string]place // by key path, such as cluster.members[1].host
	faulty map[string]bool  // key paths that already have a fault
}

// place is where a key's value begins in the file.
type place struct{ line, column int }

func newDecoder(file string) *decoder {
	return &decoder{file: file, places: map[string]place{}, faulty: map[string]bool{}}
}

// decode fills cfg, which has its defaults, from the file's text.
func (d *decoder) decode(data []byte, cfg *Config) {
	tree, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			d.faultAt(d.placeOf(doc.Body), "", "a second document begins here", "keep one document per file")
			return
		}
		body = doc.Body
	}
	section := reflect.ValueOf(cfg).Elem()
	if body == nil {
		d.need("", section)
		return
	}
	d.section("", body, section)
}

// syntax tells of text that is not YAML.
func (d *decoder) syntax(err error) {
	at := place{1, 1}
	message := err.Error()
	var located yaml.Error
	if errors.As(err, &located) {
		message = located.GetMessage()
		if tk := located.GetToken(); tk != nil && tk.Position != nil {
			at = place{tk.Position.Line, tk.Position.Column}
		}
	}
	d.faultAt(at, "", "is not YAML: "+message, "indent with spaces, one level per section")
}

// section reads the keys of one mapping into a struct.
func (d *decoder) section(path string, node ast.Node, section reflect.Value) {
	d.places[path] = d.placeOf(node)
	if _, empty := node.(*ast.NullNode); empty {
		d.need(path, section)
		return
	}
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.fault(path, fmt.Sprintf("holds %s, not keys", describe(node)), "write its keys below it, indented: "+keyList(section.Type()))
		return
	}
	first := map[string]int{}
	known := fields(section.Type())
	for it := mapping.MapRange(); it.Next(); {
		tk := it.Key().GetToken()
		at := place{tk.Position.Line, tk.Position.Column}
		key := tk.Value
		if line, twice := first[key]; twice {
			d.faultAt(at, join(path, key), fmt.Sprintf("is set a second time (first in line %d)", line), "keep one of the two")
			continue
		}
		first[key] = at.line
		f, found := find(known, key)
		if !found {
			d.faultAt(at, join(path, key), "no such key", suggestKey(path, key, known))
			continue
		}
		if _, null := it.Value().(*ast.NullNode); null {
			d.places[join(path, key)] = at
		}
		d.value(join(path, key), f, it.Value(), section.Field(f.index))
	}
	d.need(path, section)
	d.only(path, section)
}

// value reads one key's value by the type of its field.
func (d *decoder) value(path string, f field, node ast.Node, v reflect.Value) {
	switch {
	case f.kind.Kind() == reflect.Struct:
		d.section(path, node, v)
	case f.isSection():
		if _, empty := node.(*ast.NullNode); empty {
			d.fault(path, "is empty", "give it its keys, or remove the line")
			return
		}
		v.Set(reflect.New(f.kind.Elem()))
		setDefaults(v.Elem())
		d.section(path, node, v.Elem())
	case f.kind.Kind() == reflect.Slice:
		d.list(path, f, node, v)
	default:
		d.scalar(path, f, node, v)
	}
}

// list reads a list of sections or of texts.
func (d *decoder) list(path string, f field, node ast.Node, v reflect.Value) {
	if _, known := d.places[path]; !known {
		d.places[path] = d.placeOf(node)
	}
	if _, empty := node.(*ast.NullNode); empty {
		v.SetZero()
		return
	}
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fault(path, fmt.Sprintf("holds %s, not a list", describe(node)), "write each entry on a line of its own after \"- \", or all in [ ]")
		return
	}
	list := reflect.MakeSlice(f.kind, len(sequence.Values), len(sequence.Values))
	for i, item := range sequence.Values {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		if f.isSectionList() {
			setDefaults(list.Index(i))
			d.section(itemPath, item, list.Index(i))
			continue
		}
		d.scalar(itemPath, f, item, list.Index(i))
	}
	v.Set(list)
}

// scalar reads one value and checks it by itself.
func (d *decoder) scalar(path string, f field, node ast.Node, v reflect.Value) {
	if _, known := d.places[path]; !known {
		d.places[path] = d.placeOf(node)
	}
	var value string
	switch n := node.(type) {
	case *ast.NullNode:
		d.fault(path, "has no value", "give it one, or remove the line for the default")
		return
	case *ast.LiteralNode:
		value = strings.TrimSpace(n.Value.Value)
	case *ast.StringNode:
		value = n.Value
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		value = node.GetToken().Value
	default:
		d.fault(path, fmt.Sprintf("holds %s, not a single value", describe(node)), "write one value after the colon")
		return
	}
	if err := setScalar(v, value); err != nil {
		d.fault(path, err.problem, err.fix)
		return
	}
	if problem, fix := checkScalar(f, v); problem != "" {
		d.fault(path, problem, fix)
	}
}

// need tells of keys that must have a value and have none. The sections in a
// section that the file leaves out are looked at here, the others when they
// are read.
func (d *decoder) need(path string, section reflect.Value) {
	for _, f := range fields(section.Type()) {
		keyPath, value := join(path, f.key), section.Field(f.index)
		_, seen := d.places[keyPath]
		if f.kind.Kind() == reflect.Struct && !seen {
			d.need(keyPath, value)
			continue
		}
		if !f.needed || d.faulty[keyPath] {
			continue
		}
		empty := value.IsZero() || f.kind.Kind() == reflect.Slice && value.Len() == 0
		switch {
		case empty && seen:
			d.fault(keyPath, "is empty", needFix(f))
		case empty:
			d.fault(keyPath, "is missing", needFix(f))
		}
	}
}

// only tells of keys that are set although another key rules them out.
func (d *decoder) only(path string, section reflect.Value) {
	list := fields(section.Type())
	for _, f := range list {
		keyPath := join(path, f.key)
		_, set := d.places[keyPath]
		key, value := f.only()
		if !set || key == "" {
			continue
		}
		ruler, _ := find(list, key)
		if now := section.Field(ruler.index).String(); now != value && !d.faulty[join(path, key)] {
			d.fault(keyPath, fmt.Sprintf("has no effect with %s: %s", key, now),
				fmt.Sprintf("set %s: %s, or remove the line", join(path, key), value))
		}
	}
}

// fault tells of a key, at its place or that of the nearest section around it.
// A key is told of once: what follows from a first fault would only confuse.
func (d *decoder) fault(path, problem, fix string) {
	if d.faulty[path] {
		return
	}
	d.faulty[path] = true
	d.faultAt(d.nearest(path), path, problem, fix)
}

func (d *decoder) faultAt(at place, key, problem, fix string) {
	d.faults = append(d.faults, Fault{File: d.file, Line: at.line, Column: at.column, Key: key, Problem: problem, Fix: fix})
}

// nearest is where a key is in the file, or else the section it belongs to.
func (d *decoder) nearest(path string) place {
	for {
		if at, found := d.places[path]; found {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return place{1, 1}
		}
		path = path[:cut]
	}
}

// placeOf is where a node begins: for a mapping its first key.
func (d *decoder) placeOf(node ast.Node) place {
	var tk *token.Token
	switch n := node.(type) {
	case *ast.MappingNode:
		tk = n.Start
		if !n.IsFlowStyle && len(n.Values) > 0 {
			tk = n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		tk = n.Key.GetToken()
	default:
		tk = node.GetToken()
	}
	if tk == nil || tk.Position == nil {
		return place{1, 1}
	}
	return place{tk.Position.Line, tk.Position.Column}
}

// describe names a kind of YAML value as a person would.
func describe(node ast.Node) string {
	switch node.(type) {
	case ast.MapNode:
		return "keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tag"
	case *ast.NullNode:
		return "nothing"
	default:
		return "a single value"
	}
}

func needFix(f field) string {
	switch {
	case len(f.oneof) > 0:
		return "set it to " + alternatives(f.oneof)
	case f.tag.Get("sample") != "":
		return "set it, for example " + f.tag.Get("sample")
	case f.tag.Get("default") != "":
		return "set it, or remove the line for the default " + f.tag.Get("default")
	case f.tag.Get("form") == "secret":
		return "name a file that holds it"
	case f.kind.Kind() == reflect.Slice:
		return "list at least one"
	default:
		return "set it"
	}
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func find(list []field, key string) (field, bool) {
	for _, f := range list {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}
