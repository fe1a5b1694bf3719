package docs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What make faults asks for.
var (
	runFaults = flag.Bool("run-faults", false, "run the tests that faults.md names, and write down how they ended")
	rowsToRun = flag.String("rows", ".*", "a pattern of the rows to run")
	revision  = flag.String("revision", "unknown", "the revision that is tested")
)

const faultsPage = "faults.md"

// faultRow is one row of the page.
type faultRow struct {
	line               int // of the page, from 0
	id, places, result string
	tests              []namedTest
	open               string // why there is no test yet
}

// namedTest is a Go test (folder, function, subtest), a mutant of the model, or
// a kind of fault of make chaos: then folder is "model" or "chaos".
type namedTest struct{ folder, name, sub string }

// rowsOf are how many rows the catalogue has by letter. H are the holes of
// semi-sync replication.
var rowsOf = map[string]int{"N": 10, "D": 7, "W": 11, "T": 4, "M": 15, "E": 11, "G": 5, "R": 5, "O": 6, "U": 5, "C": 11, "X": 9, "H": 19}

var (
	rowStart = regexp.MustCompile(`^\| [A-Z]\d+ \|`)
	quoted   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^([a-z/]+)\.(Test\w+)(?:/(.+))?$`)
	places   = []string{"real servers", "real network", "real etcd", "real nginx", "simulation", "model", "doubles", "logic"}
)

// readFaults parses the page; it returns its lines as well.
func readFaults(t *testing.T) (lines []string, rows []faultRow) {
	t.Helper()
	text, err := os.ReadFile(faultsPage)
	require.NoError(t, err)
	lines = strings.Split(string(text), "\n")
	for i, l := range lines {
		if !rowStart.MatchString(l) {
			continue
		}
		cells := strings.Split(l, "|")
		require.Len(t, cells, 8, "line %d: a row has six cells", i+1)
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		r := faultRow{line: i, id: cells[1], places: cells[5], result: cells[6]}
		for _, m := range quoted.FindAllStringSubmatch(cells[4], -1) {
			r.tests = append(r.tests, parseTest(t, r.id, m[1]))
		}
		_, r.open, _ = strings.Cut(cells[4], "not yet: ")
		rows = append(rows, r)
	}
	return lines, rows
}

func parseTest(t *testing.T, id, text string) namedTest {
	t.Helper()
	for _, folder := range []string{"model", "chaos"} {
		if name, ok := strings.CutPrefix(text, folder+" "); ok {
			return namedTest{folder: folder, name: name}
		}
	}
	m := testName.FindStringSubmatch(text)
	require.NotNil(t, m, "%s: %q is no test", id, text)
	return namedTest{folder: m[1], name: m[2], sub: m[3]}
}

// sources are what the Go files of a folder declare and quote.
type sources struct{ functions, literals map[string]bool }

// quotes tells whether a text is a literal, or begins with one that is to be
// gone on with.
func (s sources) quotes(text string) bool {
	for l := range s.literals {
		if l == text || len(l) > 10 && strings.HasSuffix(l, " ") && strings.HasPrefix(text, l) {
			return true
		}
	}
	return false
}

func parseFolder(t *testing.T, folder string) sources {
	t.Helper()
	s := sources{map[string]bool{}, map[string]bool{}}
	files, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "no folder %s", folder)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				s.functions[n.Name.Name] = strings.HasSuffix(file, "_test.go")
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					s.literals[text] = true
				}
			}
			return true
		})
	}
	return s
}

// removals are the holes of which the page says how their tests fail when what
// keeps them closed is taken away.
func removals(lines []string) (holes []string) {
	for _, l := range lines {
		if ids, _, ok := strings.Cut(l, "**: "); ok && strings.HasPrefix(ids, "- **H") {
			holes = append(holes, strings.Split(strings.TrimPrefix(ids, "- **"), "**, **")...)
		}
	}
	return holes
}

// TestFaults: every row of the catalogue of faults is on the page, with a test
// that exists or with the reason why there is none, and these are counted; and of
// every hole it says how its tests fail without what keeps it closed.
func TestFaults(t *testing.T) {
	lines, rows := readFaults(t)
	var want, got, open []string
	for letter, n := range rowsOf {
		for i := range n {
			want = append(want, letter+strconv.Itoa(i+1))
		}
	}
	mutants, err := os.ReadFile("model/run.sh")
	require.NoError(t, err)
	folders := map[string]sources{"chaos": parseFolder(t, "cmd/chaos")}
	for _, r := range rows {
		got = append(got, r.id)
		if len(r.tests) == 0 {
			open = append(open, r.id+": "+r.open)
			require.NotEmpty(t, r.open, "%s has neither a test nor a reason (not yet: …)", r.id)
			continue
		}
		for place := range strings.SplitSeq(r.places, ", ") {
			require.Contains(t, places, place, r.id)
		}
		for _, n := range r.tests {
			s, known := folders[n.folder]
			switch {
			case n.folder == "model":
				require.Regexp(t, `(?m)^(mutant|longer|witness) `+n.name+` `, string(mutants), "%s: the model has no %s", r.id, n.name)
				continue
			case n.folder == "chaos":
				require.True(t, s.quotes(n.name), "%s: make chaos has no kind %q", r.id, n.name)
				continue
			case !known:
				s = parseFolder(t, n.folder)
				folders[n.folder] = s
			}
			require.True(t, s.functions[n.name], "%s: %s has no %s", r.id, n.folder, n.name)
			require.True(t, n.sub == "" || s.literals[n.sub], "%s: %s of %s has no subtest %q", r.id, n.name, n.folder, n.sub)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	require.Equal(t, want, got, "rows of the page")
	removed, notRun := removals(lines), []string(nil)
	for _, r := range rows {
		if r.result == "" && len(r.tests) > 0 {
			notRun = append(notRun, r.id)
		}
		if r.id[0] == 'H' {
			require.Contains(t, removed, r.id, "nothing says how its tests fail")
		}
	}
	t.Logf("not run since their tests changed: %v", notRun)
	t.Logf("%d of %d rows have no test yet:\n%s", len(open), len(rows), strings.Join(open, "\n"))
	if *runFaults {
		writeResults(t)
	}
}

// writeResults runs every Go test that the page names in the wanted rows, and
// writes into their last column with which revision they passed.
func writeResults(t *testing.T) {
	wanted, err := regexp.Compile("^(" + *rowsToRun + ")$")
	require.NoError(t, err, "-rows")
	lines, rows := readFaults(t)
	rows = slices.DeleteFunc(rows, func(r faultRow) bool { return !wanted.MatchString(r.id) })
	require.NotEmpty(t, rows, "no row matches %q", *rowsToRun)
	byFolder := map[string]map[string]bool{}
	for _, r := range rows {
		for _, n := range r.tests {
			if byFolder[n.folder] == nil {
				byFolder[n.folder] = map[string]bool{}
			}
			byFolder[n.folder][n.name] = true
		}
	}
	ended := map[namedTest]string{}
	for _, folder := range slices.Sorted(maps.Keys(byFolder)) {
		if folder == "model" || folder == "chaos" {
			continue
		}
		names := slices.Sorted(maps.Keys(byFolder[folder]))
		began := time.Now()
		args := []string{
			"test", "-json", "-count=1", "-timeout=30m", "-buildvcs=false", "-tags", "nomsgpack",
			"-run", "^(" + strings.Join(names, "|") + ")$", "./" + folder,
		}
		if folder == "internal/acceptance" {
			args = append(args, "-args", "-each-step") // make test draws some
		}
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = ".."
		out, err := cmd.Output() // an error shows in what did not pass
		results(folder, out, ended)
		fmt.Printf("%s: %d tests in %.0f s: %v\n", folder, len(names), time.Since(began).Seconds(), err)
	}
	today, failed := time.Now().UTC().Format(time.DateOnly), 0
	for _, r := range rows {
		verdict, leftOut := "", false
		for _, n := range r.tests {
			key := namedTest{n.folder, n.name, strings.ReplaceAll(n.sub, " ", "_")}
			switch {
			case n.folder == "model" || n.folder == "chaos":
			case ended[key] == "skip":
				leftOut = true
			case ended[key] != "pass":
				verdict = "FAILED " + today + " " + *revision
				t.Errorf("%s: %s %s/%s: %q", r.id, n.folder, n.name, n.sub, ended[key])
			case verdict == "":
				verdict = today + " " + *revision
			}
		}
		switch {
		case strings.HasPrefix(verdict, "FAILED"):
			failed++
		case leftOut:
			fmt.Printf("%s: not all of its tests can be run here: its result stays\n", r.id)
			verdict = r.result
		}
		cells := strings.Split(lines[r.line], "|")
		cells[6] = " " + verdict + " "
		lines[r.line] = strings.Join(cells, "|")
	}
	require.NoError(t, os.WriteFile(faultsPage, []byte(strings.Join(lines, "\n")), 0o600))
	fmt.Printf("%d rows, %d failed\n", len(rows), failed)
}

// results reads what go test -json printed, and prints what those tests said
// that failed.
func results(folder string, out []byte, into map[namedTest]string) {
	said := map[string]string{}
	scan := bufio.NewScanner(bytes.NewReader(out))
	for scan.Buffer(nil, 1<<20); scan.Scan(); {
		var event struct{ Action, Test, Output string }
		if json.Unmarshal(scan.Bytes(), &event) != nil {
			continue
		}
		said[event.Test] += event.Output
		if !slices.Contains([]string{"pass", "fail", "skip"}, event.Action) {
			continue
		}
		if event.Action == "fail" {
			fmt.Printf("%s %s:\n%s", folder, event.Test, said[event.Test])
		}
		name, sub, _ := strings.Cut(event.Test, "/")
		into[namedTest{folder, name, sub}] = event.Action
	}
}
