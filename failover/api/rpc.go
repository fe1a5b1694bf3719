package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/sys/unix"

	"interrex/failover"
	"interrex/router"
)

// commandPath is where the commands of failover.Node are, one POST each.
const commandPath = "/internal/v1/node/"

// The names of the commands.
const (
	commandStatus  = "status"
	commandFreeze  = "freeze"
	commandCatchUp = "catchup"
	commandPromote = "promote"
	commandFollow  = "follow"
	commandClose   = "close"
	commandObey    = "obey"
	commandRebuild = "rebuild"
	commandRoute   = "route"
)

// nothing is the request or the answer of a command that has none.
type nothing struct{}

// runCommand decodes a request and returns what executes it, so that the last
// look at the deadline comes after decoding.
type runCommand func(body []byte) (func(context.Context) (any, error), error)

// commands are the methods of failover.Node by name.
func (s *Server) commands() map[string]runCommand {
	n := s.node
	return map[string]runCommand{
		commandStatus: command(func(ctx context.Context, _ nothing) (failover.NodeStatus, error) {
			return n.Status(ctx)
		}),
		commandFreeze:  command(n.Freeze),
		commandCatchUp: command(n.CatchUp),
		commandPromote: command(n.Promote),
		commandClose:   command(n.Close),
		commandObey:    command(n.Obey),
		commandFollow:  command(silent(n.Follow)),
		commandRebuild: command(silent(n.Rebuild)),
		commandRoute: command(silent(func(ctx context.Context, r router.Route) error {
			return n.Route(ctx, r)
		})),
	}
}

func command[Req, Res any](call func(context.Context, Req) (Res, error)) runCommand {
	return func(body []byte) (func(context.Context) (any, error), error) {
		var req Req
		// Unknown fields are let pass: during an upgrade the leader may be
		// newer than the node, and must be able to fail over.
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf("decode %T: %w", req, err)
		}
		return func(ctx context.Context) (any, error) { return call(ctx, req) }, nil
	}
}

func silent[Req any](call func(context.Context, Req) error) func(context.Context, Req) (nothing, error) {
	return func(ctx context.Context, req Req) (nothing, error) { return nothing{}, call(ctx, req) }
}

// command serves one command. It is begun only if it is meant for this member,
// within its time since it arrived, and while its sender still waits for it:
// a process that was frozen finds old requests in its sockets when it thaws.
func (s *Server) command(name string, decode runCommand) gin.HandlerFunc {
	return func(c *gin.Context) {
		if host := bareHost(c.Request.Host); host != strings.ToLower(string(s.cfg.Self)) {
			s.fail(c, problem(problemMisdirected, fmt.Sprintf("the command is for %q, this is %q", host, s.cfg.Self)))
			return
		}
		// An address may be another cluster's by now, with a member of that name.
		// Agents that do not send it yet are let pass.
		if cluster := c.GetHeader(headerCluster); cluster != "" && cluster != s.cfg.Cluster {
			s.fail(c, problem(problemMisdirected, fmt.Sprintf("the command is for cluster %q, this is a member of %q", cluster, s.cfg.Cluster)))
			return
		}
		limit, err := timeLimit(c.GetHeader(headerTimeout))
		if err != nil {
			s.badRequest(c, FieldFault{headerTimeout, err.Error()})
			return
		}
		ctx := c.Request.Context()
		if limit > 0 {
			deadline := arrival(c).Add(limit)
			_ = http.NewResponseController(c.Writer).SetReadDeadline(deadline)
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline)
			defer cancel()
		}
		body, ok := s.readBody(c, commandBytes)
		if !ok {
			return
		}
		run, err := decode(body)
		if err != nil {
			s.badRequest(c, FieldFault{"", err.Error()})
			return
		}
		if expired(ctx) || hungUp(ctx) {
			s.fail(c, problem(problemDeadline, "the command came too late and was not begun"))
			return
		}
		s.execute(ctx, c, name, run)
	}
}

func (s *Server) execute(ctx context.Context, c *gin.Context, name string, run func(context.Context) (any, error)) {
	began := time.Now()
	res, err := run(ctx)
	s.metrics.command(name, err, time.Since(began))
	if err != nil {
		p := problem(problemCommand, err.Error())
		p.Error = encodeError(err)
		s.fail(c, p)
		return
	}
	s.reply(c, res)
}

// expired also asks the clock: a timer may be late when the machine is busy.
func expired(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// timeLimit reads the header in which a client says how many microseconds it
// will wait; no header is no limit but the connection's life.
func timeLimit(header string) (time.Duration, error) {
	if header == "" {
		return 0, nil
	}
	us, err := strconv.ParseInt(header, 10, 64)
	if err != nil || us <= 0 || us > int64(24*time.Hour/time.Microsecond) {
		return 0, errors.New("must be the microseconds the client will wait, above 0 and at most a day")
	}
	return time.Duration(us) * time.Microsecond, nil
}

// hungUp tells whether the client has closed its side of the connection. The
// kernel knows before any read finds out.
func hungUp(ctx context.Context) bool {
	conn, _ := ctx.Value(connKey{}).(net.Conn)
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true // closed already
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}
