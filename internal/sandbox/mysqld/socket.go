package mysqld

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is the longest path of a unix socket on Linux, in bytes.
const maxSocketPath = 107

// SocketPath is where the socket called name of the folder dir goes: in the
// folder itself or, if its path is too long for a socket, in a short private
// folder for temporary files. It is the same each time for the same folder.
// The private folder is made if needed, and an error says who owns it if
// another user does.
func SocketPath(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if len(path) <= maxSocketPath {
		return path, nil
	}
	private := filepath.Join(os.TempDir(), fmt.Sprintf("interrex-%d", os.Geteuid()))
	sum := sha256.Sum256([]byte(path))
	short := filepath.Join(private, hex.EncodeToString(sum[:8])+".sock")
	if len(short) > maxSocketPath {
		return "", fmt.Errorf("place socket of %s: path and %s are both longer than %d bytes", dir, short, maxSocketPath)
	}
	if err := os.MkdirAll(private, 0o700); err != nil {
		return "", fmt.Errorf("create folder for sockets: %w", err)
	}
	info, err := os.Lstat(private)
	if err != nil {
		return "", fmt.Errorf("check folder for sockets: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("use folder for sockets %s: it is not a private folder of this user", private)
	}
	return short, nil
}
