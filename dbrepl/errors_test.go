package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

// TestRefusedByServer (H9): a statement has no effect only if the server says so. A
// session that was killed while its commit waited is told of an interruption, or of
// nothing, and the commit goes on.
func TestRefusedByServer(t *testing.T) {
	for _, c := range []struct {
		err     error
		refused bool
	}{
		{&mysql.MySQLError{Number: errOptionPrevents}, true},
		{fmt.Errorf("write marker: %w", &mysql.MySQLError{Number: errReadOnlyMode}), true},
		{&mysql.MySQLError{Number: errDiskFull}, true},
		{&mysql.MySQLError{Number: errQueryInterrupted}, false},
		{mysql.ErrInvalidConn, false},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
		{errors.Join(ErrGivenUp, context.Canceled), false},
		{nil, false},
	} {
		require.Equal(t, c.refused, refusedByServer(c.err), "%v", c.err)
	}
}

// TestSemiSyncIsSwitchedOffInTwoPlaces (H3): to switch it off answers every commit
// that waits. Degrade is meant to, and disarm looks first whether one does.
func TestSemiSyncIsSwitchedOffInTwoPlaces(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var found []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range parsed.Decls {
			in := file
			if f, ok := d.(*ast.FuncDecl); ok {
				in = f.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				l, ok := n.(*ast.BasicLit)
				if ok && strings.Contains(l.Value, "rpl_semi_sync_source_enabled = ") && !strings.Contains(l.Value, "rpl_semi_sync_source_enabled = ON") {
					found = append(found, in)
				}
				return true
			})
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"Degrade", "disarm"}, found)
}
