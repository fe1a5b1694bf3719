package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// exampleWidth is the length of the example's lines.
const exampleWidth = 80

// exampleConfig is what the example shows besides the defaults: one member of
// three, all on one host so that it loads as it is.
func exampleConfig() Config {
	cfg := Defaults()
	cfg.Cluster.Name = "shop"
	for i, name := range []string{"db1", "db2", "db3"} {
		m := DefaultMember()
		m.Name = name
		m.Host = fmt.Sprintf("127.0.0.%d", i+1)
		m.MySQL = m.Host + ":3306"
		cfg.Cluster.Members = append(cfg.Cluster.Members, m)
	}
	cfg.Node.Name = "db1"
	mysql := DefaultMySQL()
	mysql.PasswordFile = "mysql.password"
	mysql.ReplicationPasswordFile = "replication.password"
	cfg.MySQL = &mysql
	cfg.Gossip.KeyFile = "gossip.key"
	cfg.Security.OperatorTokenFile = "operator.token"
	cfg.Security.MemberTokenFile = "member.token"
	cfg.Routes.Nginx = []Nginx{exampleNginx()}
	return cfg
}

func exampleNginx() Nginx {
	var n Nginx
	setDefaults(reflect.ValueOf(&n).Elem())
	n.ConfigFile = "/etc/nginx/nginx.conf"
	var service UpstreamMember
	setDefaults(reflect.ValueOf(&service).Elem())
	service.Address = "127.0.0.1:8080"
	n.Upstreams = []Upstream{
		{Context: "http", Name: "shop", Role: "http", Via: "proxy", Members: []UpstreamMember{service}},
		{Context: "stream", Name: "mysql_rw", Role: "rw", Via: "proxy"},
	}
	return n
}

// Example is a configuration file that says everything: every key with its
// default and its meaning. Keys without default are commented out. It loads as
// it is once the secrets it names exist beside it.
func Example() ([]byte, error) {
	meanings, err := readDocs()
	if err != nil {
		return nil, err
	}
	e := exampler{docs: meanings}
	e.comment("", "Configuration of one interrex agent. Every key is shown with its default; what is commented out has none or must not be set beside the others. Durations need a unit (ms, s, m, h), sizes too (B, KiB, MiB, GiB). Relative paths start at this file's folder.")
	cfg := exampleConfig()
	e.section("", reflect.ValueOf(cfg), "")
	return e.text.Bytes(), nil
}

// exampler writes the example.
type exampler struct {
	text bytes.Buffer
	docs docs
}

// comment writes a comment of one or more lines.
func (e *exampler) comment(indent, text string) {
	for _, line := range wrap(text, exampleWidth-len(indent)-2) {
		fmt.Fprintf(&e.text, "%s# %s\n", indent, line)
	}
}

// section writes the keys of a section. First is written before the first
// key: "- " in a list of sections.
func (e *exampler) section(indent string, v reflect.Value, first string) {
	for i, f := range fields(v.Type()) {
		if indent == "" {
			e.text.WriteByte('\n')
		}
		lead := indent
		if first != "" {
			lead = indent + strings.Repeat(" ", len(first))
		}
		doc := e.docs[v.Type().Name()+"."+f.name]
		if first != "" && i == 0 {
			e.comment(indent, doc)
			lead = indent + first
		} else {
			e.comment(lead, doc)
		}
		e.key(lead, f, v)
	}
}

// key writes one key with its value.
func (e *exampler) key(lead string, f field, section reflect.Value) {
	value := section.Field(f.index)
	below := strings.Repeat(" ", len(lead)) + "  "
	switch {
	case f.kind.Kind() == reflect.Pointer:
		fmt.Fprintf(&e.text, "%s%s:\n", lead, f.key)
		e.section(below, value.Elem(), "")
	case f.kind.Kind() == reflect.Struct:
		fmt.Fprintf(&e.text, "%s%s:\n", lead, f.key)
		e.section(below, value, "")
	case f.tag.Get("shown") == "commented":
		e.commented(lead, f, value)
	case f.isSectionList():
		e.list(lead, f, value)
	case ruledOut(f, section), text(value) == "" || text(value) == "[]":
		shown := text(value)
		if sample := f.tag.Get("sample"); sample != "" {
			shown = sample
		}
		fmt.Fprintf(&e.text, "%s# %s: %s\n", lead, f.key, shown)
	default:
		fmt.Fprintf(&e.text, "%s%s: %s\n", lead, f.key, text(value))
	}
}

// list writes a list of sections: the first with every key explained, the
// others with what differs from the defaults only.
func (e *exampler) list(lead string, f field, value reflect.Value) {
	below := strings.Repeat(" ", len(lead)) + "  "
	if value.Len() == 0 {
		fmt.Fprintf(&e.text, "%s# %s: []\n", lead, f.key)
		return
	}
	fmt.Fprintf(&e.text, "%s%s:\n", lead, f.key)
	for i := range value.Len() {
		if i == 0 {
			e.section(below, value.Index(i), "- ")
			continue
		}
		fmt.Fprintf(&e.text, "%s- %s\n", below, brief(value.Index(i)))
	}
}

// brief is a section on one line, with what differs from the defaults only.
func brief(v reflect.Value) string {
	usual := reflect.New(v.Type()).Elem()
	setDefaults(usual)
	var parts []string
	for _, f := range fields(v.Type()) {
		value := v.Field(f.index)
		if f.isSection() || f.isSectionList() || value.Equal(usual.Field(f.index)) {
			continue
		}
		shown := text(value)
		if strings.ContainsAny(shown, ":,[]{}#") {
			shown = fmt.Sprintf("%q", shown)
		}
		parts = append(parts, f.key+": "+shown)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// commented writes a list of sections with # before each line.
func (e *exampler) commented(lead string, f field, value reflect.Value) {
	inner := exampler{docs: e.docs}
	inner.list("", f, value)
	for line := range strings.Lines(inner.text.String()) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			line = strings.Replace(line, "# ", "## ", 1)
		}
		fmt.Fprintf(&e.text, "%s# %s", lead, line)
	}
}

// ruledOut tells whether another key of the section rules this one out.
func ruledOut(f field, section reflect.Value) bool {
	key, value := f.only()
	if key == "" {
		return false
	}
	list := fields(section.Type())
	ruler := list[slices.IndexFunc(list, func(f field) bool { return f.key == key })]
	return section.Field(ruler.index).String() != value
}
