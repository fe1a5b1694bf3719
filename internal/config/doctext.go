package config

import (
	"embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strings"
)

// source is the text of the files that declare the sections. The manual is
// made of their doc comments, so that it cannot say anything else.
//
//go:embed config.go policy.go routes.go
var source embed.FS

// docs are the doc comments of the fields, by "Type.Field".
type docs map[string]string

// readDocs reads the doc comments out of the embedded source.
func readDocs() (docs, error) {
	entries, err := source.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list embedded source: %w", err)
	}
	found := docs{}
	for _, entry := range entries {
		text, err := source.ReadFile(path.Clean(entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read embedded source: %w", err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), text, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("parse embedded source: %w", err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				found.add(spec)
			}
			return true
		})
	}
	return found, nil
}

// add takes up the fields of a struct.
func (d docs) add(spec *ast.TypeSpec) {
	section, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range section.Fields.List {
		for _, name := range f.Names {
			d[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
		}
	}
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
