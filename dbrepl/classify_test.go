package dbrepl_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/porttest"
	"interrex/internal/sandbox/mysqld/mysqldtest"
)

func mysqlClient(t *testing.T) []string {
	return mysqldtest.Distribution(t).Command("mysql")
}

// crossCheck compares the algebra with the server's functions.
func crossCheck(t *testing.T, c *cluster) {
	random := rand.New(rand.NewPCG(1, 2))
	uuids := []string{"3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"}
	tags := []string{"", "a", "b_1"}
	version := c.a.status(t).Version
	if strings.HasPrefix(version, "8.0.") {
		tags = tags[:1]
	}
	draw := func() string {
		var fields []string
		for range random.IntN(4) {
			field := strings.ToUpper(uuids[random.IntN(len(uuids))])
			if tag := tags[random.IntN(len(tags))]; tag != "" {
				field += ":" + tag
			}
			for range 1 + random.IntN(4) {
				field += fmt.Sprintf(": %d-%d", 1+random.IntN(20), random.IntN(21))
			}
			fields = append(fields, field)
		}
		return strings.Join(fields, ",\n")
	}
	ctx := limited(t, patience)
	for range 500 {
		a, b := draw(), draw()
		var minus, canonical string
		var subset bool
		require.NoError(t, c.a.root.QueryRowContext(ctx, "SELECT GTID_SUBTRACT(?, ?), GTID_SUBSET(?, ?), GTID_SUBTRACT(?, '')", a, b, a, b, a).
			Scan(&minus, &subset, &canonical))
		setA, setB := gtid.MustParse(a), gtid.MustParse(b)
		oneLine := func(s string) string { return strings.ReplaceAll(s, "\n", "") }
		require.Equal(t, oneLine(canonical), setA.String(), a)
		require.Equal(t, oneLine(minus), setA.Minus(setB).String(), "%s minus %s", a, b)
		require.Equal(t, subset, setB.Contains(setA), "%s in %s", a, b)
	}
}

// classify makes an instance fail in every way and looks at the words for it.
func classify(t *testing.T, c *cluster) {
	quick := func(change func(*dbrepl.Config)) *dbrepl.Instance {
		cfg := c.a.config(t)
		cfg.AdminAddress = ""
		cfg.ConnectTimeout, cfg.QueryTimeout = 300*time.Millisecond, 300*time.Millisecond
		if change != nil {
			change(&cfg)
		}
		return open(t, cfg)
	}
	is := func(i *dbrepl.Instance, want ...dbrepl.FailureKind) {
		t.Helper()
		err := i.Ping(limited(t, patience))
		require.Error(t, err)
		require.Contains(t, want, dbrepl.Classify(err), err)
		_, err = i.Probe(limited(t, patience))
		require.Error(t, err)
		require.Contains(t, want, dbrepl.Classify(err), err)
	}
	c.reset(t, c.a)
	warm := quick(nil)
	require.NoError(t, warm.Ping(limited(t, patience)))
	_, err := warm.Probe(limited(t, patience))
	require.NoError(t, err)

	is(quick(func(cfg *dbrepl.Config) { cfg.Password = "wrong" }), dbrepl.AccessDenied)
	is(quick(func(cfg *dbrepl.Config) { cfg.Socket = filepath.Join(t.TempDir(), "none.sock") }), dbrepl.Refused)
	is(quick(func(cfg *dbrepl.Config) {
		cfg.Address = porttest.Address(t)
	}), dbrepl.Refused)

	// Saturated: the administrative listener still answers. The connections
	// that use the server up are held: idle ones of a pool may be gone.
	var held *sql.Conn
	for range 3 { // one more than the limit is let in
		held, err = c.a.root.Conn(limited(t, patience))
		require.NoError(t, err)
		defer held.Close()
	}
	_, err = held.ExecContext(limited(t, patience), "SET GLOBAL max_connections = 1")
	require.NoError(t, err)
	is(quick(nil), dbrepl.TooManyConnections)
	admin := quick(func(cfg *dbrepl.Config) { cfg.AdminAddress = c.a.server.AdminAddr })
	require.NoError(t, admin.Ping(limited(t, patience)))
	_, err = held.ExecContext(limited(t, patience), "SET GLOBAL max_connections = 100")
	require.NoError(t, err)

	// Frozen: warm connections time out in the query, new ones before.
	require.NoError(t, c.a.server.Freeze())
	is(warm, dbrepl.QueryTimedOut)
	is(warm, dbrepl.QueryTimedOut)
	is(quick(nil), dbrepl.QueryTimedOut)
	require.NoError(t, c.a.server.Thaw())
	require.NoError(t, warm.Ping(limited(t, patience)), "it recovers by itself")

	require.NoError(t, c.a.server.Kill())
	is(warm, dbrepl.Refused, dbrepl.Broken)
	is(warm, dbrepl.Refused)
	require.Equal(t, dbrepl.Other, dbrepl.Classify(errors.New("something")))
	require.Equal(t, dbrepl.QueryTimedOut, dbrepl.Classify(context.DeadlineExceeded))

	err = warm.StopServer(limited(t, patience), dbrepl.StopOptions{})
	require.ErrorIs(t, err, dbrepl.ErrNotLocal)
}
