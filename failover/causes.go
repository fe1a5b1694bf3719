package failover

// The causes of verdicts as the detector names them, where something here
// depends on which it is.
const (
	causeProcessExited = "process_exited"
	causeMemberGone    = "member_gone"
	causeClosed        = "closed"
)

// causeWords says of the cause of a verdict what it means and where to look, in
// words for who is called at night. Both are empty for one that is not known
// here.
func causeWords(cause string) (means, look string) {
	switch cause {
	case causeProcessExited:
		return "the server's process has ended: it crashed, or was killed, or was stopped past the agent's hook",
			"the end of the server's error log, and `journalctl -k` for the kernel's out-of-memory killer"
	case "refused":
		return "its host answers, and nothing listens at the server's port",
			"whether the server runs on that host, and a firewall that rejects"
	case "connection_broken":
		return "connections to the server are cut as soon as they are made",
			"the server's error log, and what is between the hosts"
	case "silent_host":
		return "its host does not answer at all: it is off, or the network to it is cut",
			"the host's console, and the network between the members"
	case "frozen":
		return "the server accepts connections and does not answer on them: it is frozen, or its host has no time for it",
			"the state of the process (T or D in `ps`), the host's load and its disks"
	case "write_stalled":
		return "the server answers reads, and a write that has to be durable does not come back",
			"its data disk (`iostat -x`), and what holds a global lock (`SHOW PROCESSLIST`)"
	case "write_refused":
		return "the server answers reads, and says of a write that its disk takes nothing", "`df` and `dmesg` on that host"
	case "cut_off":
		return "the server answers the agent beside it and nobody else: no client elsewhere reaches it, and no replica can acknowledge",
			"the network to its MySQL ports: a firewall, a route, an interface"
	case "disk_full":
		return "the server has no room left on its disk and cannot write", "`df` on that host; binary logs are what may go first"
	case "disk_read_only":
		return "the server's disk was remounted read-only, as the kernel does after an error", "`dmesg` on that host: the disk may be dying"
	case "disk_stalled":
		return "the disk that holds the server's data does not finish a flush", "`dmesg` and `iostat -x` on that host, and its storage"
	case "saturated":
		return "the server is full: only its reserved connection still gets in, or so many sessions execute statements that none gets done. It is not dead, and moving the primary would move the load",
			"who uses it up (`SHOW PROCESSLIST` by the administrative port): too many connections, or statements that wait for each other"
	case "starved":
		return "the primary is well, and its commits wait for replicas that do not acknowledge",
			"the replicas: `interrex status` names those that are missing"
	case "isolated":
		return "the primary's own agent has lost sight of the majority", "the network of that host"
	case "agent_gone_instance_alive":
		return "the agent on its host is gone, and the server answers the others: it goes on, with nobody to open or close it",
			"the agent's log on that host, and start it"
	case "restarted":
		return "the server came back in place under the same name half a minute ago at most; it started closed, and is open as soon as its agent has opened it", "why it went: its error log"
	}
	return gossipCauseWords(cause)
}

// gossipCauseWords are those of causes that say little about the server itself.
func gossipCauseWords(cause string) (means, look string) {
	switch cause {
	case "alive":
		return "the server answers and takes writes", ""
	case "closed":
		return "the server answers and is closed for writes", ""
	case "erring":
		return "the server answers with an error: it lives, and no more is known", "the agent's account on it: `interrex doctor`"
	case "unanswered":
		return "a question to the server has been waiting for a moment", ""
	case "another_server":
		return "another server answers at its address, by its server_uuid",
			"which server has that address now, and its name in the DNS; one that lost its data folder has a new server_uuid, too (`auto.cnf`)"
	case "receiver_lost":
		return "a replica has lost its connection to the server", "the network between the servers"
	case causeMemberGone, "member_left":
		return "the agent on its host is gone", "the agent's log on that host"
	}
	return "", ""
}
