package nginx

import (
	"fmt"
	"os"
	"strings"
)

// An nginx that was started through a dynamic loader (as those that are
// unpacked into a folder rather than installed) cannot show its title: the
// kernel prints the loader's name for each of its processes. Those are told
// apart by what they hold instead: a worker that takes connections shares a
// listening socket with its master, and one that is shutting down has closed
// it. Reading that takes the same user or root.

// mapsNginx tells whether a process has a program named nginx in its memory.
func mapsNginx(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false // gone, or another user's
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasSuffix(strings.TrimSpace(line), "/nginx") {
			return true
		}
	}
	return false
}

// listening are the TCP sockets a process listens on, as /proc names them:
// socket:[INODE].
func listening(pid int) map[string]bool {
	all := map[string]bool{}
	for _, family := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, family))
		if err != nil {
			continue
		}
		const state, inode, listen = 3, 9, "0A"
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > inode && f[state] == listen {
				all["socket:["+f[inode]+"]"] = true
			}
		}
	}
	held := map[string]bool{}
	for _, s := range openFiles(pid) {
		if all[s] {
			held[s] = true
		}
	}
	return held
}

// openFiles are the names of what a process has open.
func openFiles(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone, or another user's
	}
	var names []string
	for _, e := range entries {
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}
