package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is what the tags of one struct field say about its key.
//
//	yaml     the key
//	default  its value when the file does not set it
//	need     it must not be empty
//	oneof    the values it may have, separated by |
//	min,max  the range of a number, duration or size
//	form     what a text must look like: name, host, hostport, url, urlpath,
//	         upstream; path, file and secret name files, and relative ones
//	         are resolved against the configuration file's folder
//	only     sibling=value: it may be set only then
//	sample   a value for the example of a key without default
//	shown    commented: the example shows the section commented out
type field struct {
	name   string // of the Go field
	key    string
	tag    reflect.StructTag
	index  int
	kind   reflect.Type
	oneof  []string
	needed bool
}

// fields lists the keys of a section in the order of its struct.
func fields(t reflect.Type) []field {
	list := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		sf := t.Field(i)
		f := field{
			name: sf.Name, key: sf.Tag.Get("yaml"), tag: sf.Tag, index: i, kind: sf.Type,
			needed: sf.Tag.Get("need") == "true",
		}
		if values := sf.Tag.Get("oneof"); values != "" {
			f.oneof = strings.Split(values, "|")
		}
		list = append(list, f)
	}
	return list
}

// only splits the tag of that name; key is empty when there is none.
func (f field) only() (key, value string) {
	key, value, _ = strings.Cut(f.tag.Get("only"), "=")
	return key, value
}

// isSection tells whether the key holds further keys.
func (f field) isSection() bool {
	return f.kind.Kind() == reflect.Struct ||
		f.kind.Kind() == reflect.Pointer && f.kind.Elem().Kind() == reflect.Struct
}

// isSectionList tells whether the key holds a list of sections.
func (f field) isSectionList() bool {
	return f.kind.Kind() == reflect.Slice && f.kind.Elem().Kind() == reflect.Struct
}

// setDefaults gives every field of a section the default of its tag. Optional
// sections (pointers) stay out.
func setDefaults(section reflect.Value) {
	for _, f := range fields(section.Type()) {
		value := section.Field(f.index)
		if f.kind.Kind() == reflect.Struct {
			setDefaults(value)
			continue
		}
		text, found := f.tag.Lookup("default")
		if !found {
			continue
		}
		if f.kind.Kind() == reflect.Slice {
			value.Set(reflect.ValueOf(splitList(text)))
			continue
		}
		// Cannot fail: a test reads every default.
		_ = setScalar(value, text)
	}
}

// splitList reads the notation of list defaults: [a, b].
func splitList(text string) []string {
	parts := strings.Split(strings.Trim(text, "[]"), ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// misread says what is wrong with a text that should be a value.
type misread struct{ problem, fix string }

// setScalar stores text in v, by v's type.
func setScalar(v reflect.Value, text string) *misread {
	switch v.Interface().(type) {
	case time.Duration:
		return setDuration(v, text)
	case Bytes:
		size, err := ParseBytes(text)
		if err != nil {
			return &misread{fmt.Sprintf("%q is not a size", text), "write a whole number with its unit, such as 128MiB (B, KiB, MiB, GiB)"}
		}
		v.SetInt(int64(size))
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return &misread{fmt.Sprintf("%q is neither true nor false", text), "write true or false"}
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &misread{fmt.Sprintf("%q is not a whole number", text), "write digits only"}
		}
		v.SetInt(int64(n))
	default:
		v.SetString(text)
	}
	return nil
}

// setDuration stores a duration; one without unit is told apart, since that is
// the usual mistake.
func setDuration(v reflect.Value, text string) *misread {
	d, err := time.ParseDuration(text)
	if err == nil {
		v.SetInt(int64(d))
		return nil
	}
	if _, number := strconv.ParseFloat(text, 64); number == nil {
		return &misread{
			fmt.Sprintf("%s has no unit", text),
			fmt.Sprintf("write %sms, %ss or %sm", text, text, text),
		}
	}
	return &misread{fmt.Sprintf("%q is not a duration", text), "write a number with its unit, such as 250ms, 1s or 5m"}
}

// text prints a scalar as the file would have it.
func text(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		return durationText(value)
	case Bytes:
		return value.String()
	case []string:
		return "[" + strings.Join(value, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}

// durationText prints a duration without the zero parts that its String has.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
