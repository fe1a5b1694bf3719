package acceptance

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLogs: every line of an agent's log is an object of JSON with the fields
// that all have, and no field twice: which of two would a reader believe?
func TestLogs(t *testing.T) {
	c := borrow(t)
	c.failsOver(t) // has much to tell
	lines := 0
	for _, n := range c.names() {
		for line := range strings.Lines(c.log(t, n)) {
			fields, twice := fieldsOf(t, line)
			require.Empty(t, twice, "twice in %s: %s", n, line)
			require.Subset(t, fields, []string{"level", "time", "message", "node"}, line)
			require.Contains(t, line, `"node":"`+n+`"`)
			lines++
		}
	}
	require.Greater(t, lines, 50)
}

// fieldsOf are the names of an object's fields, and those that are there twice.
func fieldsOf(t *testing.T, line string) (fields, twice []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(line))
	_, err := d.Token()
	require.NoError(t, err, line)
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		require.NoError(t, err, line)
		key := name.(string)
		if seen[key] {
			twice = append(twice, key)
		}
		seen[key] = true
		fields = append(fields, key)
		var value json.RawMessage
		require.NoError(t, d.Decode(&value), line)
	}
	_, err = d.Token()
	require.NoError(t, err, line)
	_, err = d.Token()
	require.ErrorIs(t, err, io.EOF, line)
	return fields, twice
}
