package acceptance

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestM10EventsFollowThePrimary: an event of the event scheduler goes on on
// whichever server is primary, and on no other; one that was off stays off; and
// one that may not be turned on is told of.
func TestM10EventsFollowThePrimary(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	first := string(before.Primary.Node)
	for _, statement := range []string{
		"CREATE USER 'o''clock'@localhost IDENTIFIED BY RANDOM PASSWORD",
		"GRANT ALL ON app.* TO 'o''clock'@localhost",
		"CREATE TABLE app.ticks (id INT PRIMARY KEY AUTO_INCREMENT, event VARCHAR(10), server CHAR(36))",
		"CREATE DEFINER = 'o''clock'@localhost EVENT app.`tick``tock` ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.ticks (event, server) VALUES ('on', @@server_uuid)",
		"CREATE DEFINER = 'o''clock'@localhost EVENT app.off ON SCHEDULE EVERY 1 SECOND DISABLE DO INSERT INTO app.ticks (event, server) VALUES ('off', @@server_uuid)",
		"CREATE DEFINER = 'o''clock'@localhost EVENT app.local ON SCHEDULE EVERY 1 SECOND DISABLE ON REPLICA DO INSERT INTO app.ticks (event, server) VALUES ('local', @@server_uuid)",
		// Root may what the agents' accounts may not (SYSTEM_USER).
		"CREATE DEFINER = root@localhost EVENT app.roots ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.ticks (event, server) VALUES ('root', @@server_uuid)",
	} {
		c.exec(t, first, statement)
	}
	for _, n := range c.names() {
		c.saysOf(t, n, "SELECT GROUP_CONCAT(event_name, is_on ORDER BY event_name) FROM interrex.event", "off0,roots1,tick`tock1")
	}
	c.ticks(t, first, "on root")

	c.order(t, "kill", first)
	second := string(c.moved(t, before, c.names(first)[0]).Primary.Node)
	c.ticks(t, second, "on")
	c.saysSoon(t, second, "not known whether they should be: app.local (")
	c.saysSoon(t, second, "app.roots of root@localhost: Error 1227")
	c.order(t, "start", first)
	c.healthy(t)
	c.ticks(t, second, "on")
	for _, n := range c.names(second) {
		c.saysOf(t, n, "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = 'app' AND event_name <> 'roots' AND status = 'ENABLED'", "0")
	}

	// What somebody turns on or off counts at the next one.
	c.exec(t, second, "ALTER DEFINER = 'o''clock'@localhost EVENT app.off ENABLE")
	c.exec(t, second, "ALTER DEFINER = 'o''clock'@localhost EVENT app.`tick``tock` DISABLE")
	c.exec(t, second, "DROP EVENT app.roots")
	c.saysOf(t, first, "SELECT GROUP_CONCAT(event_name, is_on ORDER BY event_name) FROM interrex.event", "off1,tick`tock0")
	status, _, problem := c.switchover(t, second, first)
	require.Equal(t, http.StatusOK, status, "%+v", problem)
	c.healthy(t)
	c.ticks(t, first, "off")

	for _, statement := range []string{"DROP EVENT app.off", "DROP EVENT app.local", "DROP EVENT app.`tick``tock`", "DROP USER 'o''clock'@localhost", "DROP TABLE app.ticks"} {
		c.exec(t, first, statement)
	}
	c.saysOf(t, second, "SELECT COUNT(*) FROM interrex.event", "0")
	c.lostNothing(t)
}

// saysOf waits until a server answers a question as it should.
func (c *cluster) saysOf(t *testing.T, node, query, want string) {
	t.Helper()
	await(t, patience, node+" to say "+want, func() (bool, string) {
		said, err := c.ask(t.Context(), node, query)
		if err != nil {
			return false, err.Error()
		}
		return said == want, said
	})
}

// ticks waits until events have run a few times, and checks which did, on the
// primary and nowhere else.
func (c *cluster) ticks(t *testing.T, primary, events string) {
	t.Helper()
	from, err := c.ask(t.Context(), primary, "SELECT COALESCE(MAX(id), 0) FROM app.ticks")
	require.NoError(t, err)
	since := " FROM app.ticks WHERE id > " + from
	few := len(strings.Fields(events)) * 2
	await(t, patience, events+" to run on "+primary, func() (bool, string) {
		n, err := c.ask(t.Context(), primary, "SELECT COUNT(*)"+since)
		ran, _ := strconv.Atoi(n)
		return err == nil && ran >= few, n
	})
	ran, err := c.ask(t.Context(), primary, "SELECT GROUP_CONCAT(DISTINCT event ORDER BY event SEPARATOR ' ')"+since)
	require.NoError(t, err)
	require.Equal(t, events, ran)
	strange, err := c.ask(t.Context(), primary, "SELECT COUNT(*)"+since+" AND server <> @@server_uuid")
	require.NoError(t, err)
	require.Equal(t, "0", strange, "not by %s", primary)
}
