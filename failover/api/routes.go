package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// access is who may call a route. The zero value is no access at all, so that
// a route that forgets to say is closed.
type access int

const (
	// accessProbe: anybody; the answer is hardly more than its status code.
	accessProbe access = iota + 1
	// accessRead: as Security.Reads says.
	accessRead
	// accessOperate: the operator's token, or a member that forwards.
	accessOperate
	// accessMember: another member's token and, with TLS, certificate.
	accessMember
)

type route struct {
	methods []string
	path    string
	access  access
	handle  gin.HandlerFunc
}

// routes is the whole API. Only what stands here is served.
func (s *Server) routes() []route {
	probe := []string{http.MethodGet, http.MethodHead, http.MethodOptions}
	get := []string{http.MethodGet, http.MethodHead}
	post := []string{http.MethodPost}
	list := []route{
		{probe, "/health", accessProbe, s.getHealth},
		{probe, "/ready", accessProbe, s.getReady},
		{probe, "/primary", accessProbe, s.getPrimary},
		{probe, "/replica", accessProbe, s.getReplica},

		{get, "/metrics", accessRead, s.getMetrics},
		{get, "/api/v1/openapi.json", accessRead, s.getSpecJSON},
		{get, "/api/v1/openapi.yaml", accessRead, s.getSpecYAML},
		{get, "/api/v1/cluster", accessRead, s.getCluster},
		{get, "/api/v1/members", accessRead, s.getMembers},
		{get, "/api/v1/members/:name", accessRead, s.getMember},
		{get, "/api/v1/members/:name/evidence", accessRead, s.getEvidence},
		{get, "/api/v1/gates", accessRead, s.getGates},
		{get, "/api/v1/failovers", accessRead, s.getReports},
		{get, "/api/v1/failovers/:epoch", accessRead, s.getReport},
		{get, "/api/v1/explain", accessRead, s.getExplain},
		{get, "/api/v1/decisions", accessRead, s.getDecisions},
		{get, "/api/v1/objectives", accessRead, s.getObjectives},
		{get, "/api/v1/failover/force", accessRead, s.getForce},
		{get, "/api/v1/drill", accessRead, s.getFaults},

		{post, "/api/v1/switchover", accessOperate, s.postSwitchover},
		{post, "/api/v1/failover/force", accessOperate, s.postForce},
		{post, "/api/v1/pause", accessOperate, s.postPause},
		{post, "/api/v1/resume", accessOperate, s.postResume},
		{post, "/api/v1/membership/add", accessOperate, s.postAddMember},
		{post, "/api/v1/membership/remove", accessOperate, s.postRemoveMember},
		{post, "/api/v1/drill/faults", accessOperate, s.postFault},
	}
	for name, run := range s.commands() {
		list = append(list, route{post, commandPath + name, accessMember, s.command(name, run)})
	}
	return list
}
