package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modelPage = "model/README.md"

// declared are the functions, methods (Type.name), types, and fields (Type.name)
// of what the model is a model of; and the names alone of all of them.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	add := func(owner, name string) {
		names[name] = true
		if owner != "" {
			names[owner+"."+name] = true
		}
	}
	for _, folder := range []string{"failover", "election", "dbrepl"} {
		files, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					add(receiverOf(n), n.Name.Name)
				case *ast.TypeSpec:
					add("", n.Name.Name)
					for _, m := range membersOf(n.Type) {
						add(n.Name.Name, m)
					}
				}
				return true
			})
		}
	}
	return names
}

func receiverOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// membersOf are a struct's fields or an interface's methods.
func membersOf(of ast.Expr) (names []string) {
	var fields *ast.FieldList
	switch of := of.(type) {
	case *ast.StructType:
		fields = of.Fields
	case *ast.InterfaceType:
		fields = of.Methods
	default:
		return nil
	}
	for _, f := range fields.List {
		for _, n := range f.Names {
			names = append(names, n.Name)
		}
	}
	return names
}

// TestModelStandsForTheCode: each action that the page explains is one of the
// model, and each function and field that it is said to stand for is one of the
// code.
func TestModelStandsForTheCode(t *testing.T) {
	page, err := os.ReadFile(modelPage)
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "\n| action | function |\n|---|---|\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	var model []byte
	for _, file := range []string{"model/failover.pml", "model/register.inc"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		model = append(model, text...)
	}
	code, rows := declared(t), strings.Split(table, "\n")
	require.Greater(t, len(rows), 20)
	for _, row := range rows {
		cells := strings.Split(row, "|")
		require.Len(t, cells, 4, row)
		for _, action := range quoted.FindAllStringSubmatch(cells[1], -1) {
			require.Regexp(t, `(?m)^(inline|#define|byte|bit)\b.*\b`+regexp.QuoteMeta(action[1])+`\b`, string(model), "the model has no %s", action[1])
		}
		for _, name := range quoted.FindAllStringSubmatch(cells[2], -1) {
			if name[1] == "L" || name[1] == "MAYACK" { // of the model, explained there
				continue
			}
			require.True(t, code[name[1]], "%s: the code has no %s", strings.TrimSpace(cells[1]), name[1])
		}
	}
}

// TestMutantsOfTheModel: each defence that run.sh takes away is one that the
// model can do without, and the page explains it.
func TestMutantsOfTheModel(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(text)
	}
	model, page := read("model/failover.pml")+read("model/register.inc"), read(modelPage)
	guards := map[string]bool{}
	for _, g := range regexp.MustCompile(`\b(MUT|WIT)_[A-Z_0-9]+`).FindAllString(model, -1) {
		guards[g] = true
	}
	run := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t*(mutant|longer|witness) ([A-Z_0-9]+) `).FindAllStringSubmatch(read("model/run.sh"), -1) {
		prefix := map[string]string{"mutant": "MUT_", "longer": "MUT_", "witness": "WIT_"}[m[1]]
		require.True(t, guards[prefix+m[2]], "the model has no %s%s", prefix, m[2])
		run[m[2]] = true
		if prefix == "MUT_" {
			require.Contains(t, page, m[2])
		}
	}
	require.Greater(t, len(run), 30)
	for g := range guards {
		require.True(t, run[g[4:]] || strings.Contains(g, "WIT_"), "run.sh does not run %s", g)
	}
}

// TestMutantsNamedElsewhereAreRunByCI: what the table of faults promises to be
// caught is in the share of the model that .ci/run runs.
func TestMutantsNamedElsewhereAreRunByCI(t *testing.T) {
	script, err := os.ReadFile("model/run.sh")
	require.NoError(t, err)
	_, wanted, found := strings.Cut(string(script), "\nwanted() {")
	require.True(t, found)
	wanted, _, _ = strings.Cut(wanted, "\n}")
	faults, err := os.ReadFile("faults.md")
	require.NoError(t, err)
	named := regexp.MustCompile("`model ([A-Z_0-9]+)`").FindAllStringSubmatch(string(faults), -1)
	require.NotEmpty(t, named)
	for _, m := range named {
		require.Regexp(t, `\b`+m[1]+`\b`, wanted, "run.sh short leaves %s out", m[1])
	}
}
