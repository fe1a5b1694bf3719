package nginx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// pollLock is how often a lock that somebody else holds is asked for.
const pollLock = 10 * time.Millisecond

// target is the file to be edited and those kept beside it. All but path begin
// with a dot, so that an "include dir/*" doesn't read them.
type target struct {
	path     string // with symbolic links resolved
	next     string // the new text, until it is renamed to path
	previous string // the text before the last change
	pending  string // there while a change is under way; holds the new text's hash
	lock     string
	// linked: the file is named by a link in another folder, so that relative
	// includes mean something else beside the file itself.
	linked bool
}

func findTarget(file string) (target, error) {
	path, err := filepath.EvalSymlinks(file)
	if err != nil {
		return target{}, fmt.Errorf("find configuration file: %w", err)
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return target{}, fmt.Errorf("find configuration file: %w", err)
	}
	base := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".interrex-")
	return target{
		path: path, next: base + "new", previous: base + "previous", pending: base + "pending", lock: base + "lock",
		linked: folder != filepath.Dir(path),
	}, nil
}

// acquire takes the lock beside the file, which ends with the process that
// holds it, and returns how to give it back.
func (t target) acquire(ctx context.Context, limit time.Duration) (release func(), err error) {
	f, err := os.OpenFile(t.lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(pollLock)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing gives the lock back
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: another agent holds it: %w", t.lock, err), f.Close())
		case <-ticker.C:
		}
	}
}

// version is what a file held at one moment, and whose it was.
type version struct {
	text     []byte
	mode     os.FileMode
	uid, gid int
}

func (t target) read() (version, error) {
	text, err := os.ReadFile(t.path)
	if err != nil {
		return version{}, fmt.Errorf("read configuration: %w", err)
	}
	info, err := os.Stat(t.path)
	if err != nil {
		return version{}, fmt.Errorf("read configuration: %w", err)
	}
	v := version{text: text, mode: info.Mode().Perm(), uid: -1, gid: -1}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		v.uid, v.gid = int(s.Uid), int(s.Gid)
	}
	return v, nil
}

// write puts text into a new file at path, with mode and owner of v, and sees
// it on disk.
func (v version) write(path string, text []byte) (err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	// Only root can give a file to another user; whoever else may replace it
	// here becomes its owner, as with any editor.
	if err := f.Chown(v.uid, v.gid); err != nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("set owner of %s: %w", path, err)
	}
	if err := f.Chmod(v.mode); err != nil {
		return fmt.Errorf("set mode of %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	return nil
}

// put renames the file at next to the configuration's name.
func (t target) put() error {
	if err := os.Rename(t.next, t.path); err != nil {
		return fmt.Errorf("put configuration in place: %w", err)
	}
	dir, err := os.Open(filepath.Dir(t.path))
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

// backUp keeps v as the previous version.
func (t target) backUp(v version) error {
	temp := t.previous + "~"
	if err := v.write(temp, v.text); err != nil {
		return fmt.Errorf("keep previous configuration: %w", err)
	}
	if err := os.Rename(temp, t.previous); err != nil {
		return fmt.Errorf("keep previous configuration: %w", err)
	}
	return nil
}

// restore puts v back, unless the file no longer holds ours: then somebody
// edited it since, and their text stays.
func (t target) restore(v version, ours []byte) error {
	now, err := t.read()
	if err != nil {
		return fmt.Errorf("restore configuration: %w", err)
	}
	if !bytes.Equal(now.text, ours) {
		return fmt.Errorf("restore configuration: %w", ErrEdited)
	}
	if err := v.write(t.next, v.text); err != nil {
		return fmt.Errorf("restore configuration: %w", err)
	}
	return t.put()
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// begin marks that a change to text is under way, for whoever takes over after
// a crash.
func (t target) begin(text []byte) error {
	if err := os.WriteFile(t.pending, []byte(hashOf(text)), 0o600); err != nil {
		return fmt.Errorf("mark change as pending: %w", err)
	}
	return nil
}

// finish takes the mark and the left-over new file away.
func (t target) finish() error {
	var faults []error
	for _, path := range []string{t.next, t.pending} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, fmt.Errorf("clean up: %w", err))
		}
	}
	return errors.Join(faults...)
}

// unfinished tells whether a change was begun and never finished, and the hash
// of what it wrote.
func (t target) unfinished() (hash string, is bool) {
	text, err := os.ReadFile(t.pending)
	return string(text), err == nil
}
