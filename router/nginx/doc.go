// Package nginx keeps the upstream blocks that an agent is told to own in an
// nginx configuration in step with the route table.
//
// It owns, in one file, the server lines of the named upstream blocks, and
// nothing else: comments, other directives and layout stay byte for byte, and a
// file that already says what it should is not touched. A server line that
// names a wanted address keeps its parameters; only its "down" comes and goes.
// One that names no wanted address is taken out, or marked down if it carries
// parameters of somebody else's, so that they are there when it is wanted again.
//
// A change is written to a new file beside the old one, tested by nginx,
// renamed into place, loaded by a reload, and seen to be live: the worker
// processes were replaced. If any of that fails the previous file is put back.
//
// It never decides who is primary, never obeys a route older than one it has
// seen (I5), never leaves an upstream without servers, never writes when a
// block it owns is missing or there twice, never runs a shell, and renders
// nothing but addresses it has parsed. People may edit the file at any time: it
// is read anew before each change, and what they wrote outside the owned lines
// is kept. A change of theirs that waits for a reload goes live with the next
// one of ours.
//
// What clients see. A reload moves new connections only; sessions of the old
// workers go on until nginx's worker_shutdown_timeout, which should therefore
// be set. nginx takes at least 100 ms for a reload, and a stream upstream whose
// servers are all down closes connections at once. So the better place for
// MySQL behind nginx is an upstream of the agents' proxies (Via Proxy), which
// move in a millisecond and hold new connections while the primary moves;
// Via Direct is for those who want no proxy in between.
//
// One agent should own a file. Several on one host don't destroy each other's
// work, as each takes a lock beside the file, but each reloads nginx for its
// own view of the members' health.
//
// Files beside the configuration, all with a leading dot so that an
// "include dir/*" passes them by: .NAME.interrex-previous (the file as it was
// before the last change), .NAME.interrex-lock, and for as long as a change is
// under way .NAME.interrex-new and .NAME.interrex-pending. A script that edits
// the file can keep the agent out meanwhile with flock(1) on the lock.
//
// Start reading at Rewriter.Run, then Rewriter.apply; choose (choose.go) says
// what belongs in a block, edit (edit.go) what becomes of its lines.
package nginx
