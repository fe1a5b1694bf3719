package detector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// diskRoom is what must be left for a disk to count as not full: a tablespace
// grows by an extent of this size.
const diskRoom = 1 << 20

// probeFile is written beside the server's own files. The server takes no
// notice of names like this.
const probeFile = ".interrex-probe"

// NewDisk is the real disk under the folders that the local server writes to.
// They are asked for until they are known.
func NewDisk(folders func() ([]string, error)) Disk { return &disk{find: folders} }

// disk is tried by one goroutine at a time.
type disk struct {
	find func() ([]string, error)

	mu      sync.Mutex
	folders []string // one on each file system
	devices []string // their statistics, where there are any
}

// Look implements Disk.
func (d *disk) Look() error { return d.each(lookAt) }

// Write implements Disk.
func (d *disk) Write() error { return d.each(tryFolder) }

// each asks every file system until one has a fault.
func (d *disk) each(ask func(folder string) error) error {
	folders, err := d.known()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDiskUnknown, err)
	}
	var unknown error
	for _, folder := range folders {
		err := ask(folder)
		if errors.Is(err, ErrDiskUnknown) {
			unknown = err
			continue
		}
		if err != nil {
			return err
		}
	}
	return unknown
}

// known finds the folders once.
func (d *disk) known() ([]string, error) {
	d.mu.Lock()
	have := d.folders
	d.mu.Unlock()
	if have != nil {
		return have, nil
	}
	all, err := d.find() // without the lock: what follows may hang with the disk
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{}
	var folders, devices []string
	for _, folder := range all {
		var st unix.Stat_t
		if err := unix.Stat(folder, &st); err != nil {
			return nil, fmt.Errorf("look at folder %s: %w", folder, err)
		}
		if seen[st.Dev] {
			continue
		}
		seen[st.Dev] = true
		folders = append(folders, folder)
		devices = append(devices, fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.folders, d.devices = folders, devices
	return folders, nil
}

// Completed implements Disk.
func (d *disk) Completed() (uint64, bool) {
	d.mu.Lock()
	devices := d.devices
	d.mu.Unlock()
	var sum uint64
	for _, device := range devices {
		text, err := os.ReadFile(device)
		fields := strings.Fields(string(text))
		// Of reads four fields, then the writes that were completed.
		if err != nil || len(fields) < 5 {
			return 0, false // of a file system without a device, nothing is known
		}
		n, err := strconv.ParseUint(fields[4], 10, 64)
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return sum, len(devices) > 0
}

// lookAt asks a folder's file system whether it takes another write.
func lookAt(folder string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil {
		return fmt.Errorf("look at file system of %s: %w", folder, diskError(err))
	}
	switch {
	case fs.Flags&unix.ST_RDONLY == 0:
	case forUsAlone(folder):
		return fmt.Errorf("%w: %s is read-only for this process alone (under systemd its unit needs ReadWritePaths=%s)", ErrDiskUnknown, folder, folder)
	default:
		return fmt.Errorf("%w: %s is mounted so", ErrDiskReadOnly, folder)
	}
	// What is reserved for root is none of the server's. A file system that
	// counts no blocks has no limit.
	if left := fs.Bavail * uint64(fs.Bsize); fs.Blocks > 0 && left < diskRoom {
		return fmt.Errorf("%w: %d KiB are left in %s", ErrDiskFull, left>>10, folder)
	}
	return nil
}

// forUsAlone tells whether a file system takes writes, and is mounted read-only
// where this process sees it, as ProtectSystem= of systemd has it: that is no
// fault of the server's disk. Both are in mountinfo (proc(5)): the options of the
// mount, and those of the file system.
func forUsAlone(folder string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, folder, 0, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return false
	}
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false
	}
	mount := strconv.FormatUint(st.Mnt_id, 10) + " "
	for line := range strings.Lines(string(text)) {
		_, system, _ := strings.Cut(line, " - ") // its type, source and options
		if fields := strings.Fields(system); strings.HasPrefix(line, mount) && len(fields) == 3 {
			return slices.Contains(strings.Split(fields[2], ","), "rw")
		}
	}
	return false
}

// tryFolder finds out.
func tryFolder(folder string) error {
	if err := lookAt(folder); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(folder, probeFile)); err != nil {
		return fmt.Errorf("write to %s: %w", folder, diskError(err))
	}
	return nil
}

// writeFile makes a file of one block anew and flushes it.
func writeFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return err
	}
	return f.Sync()
}

// diskError says what a failed call means.
func diskError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EIO):
		return fmt.Errorf("%w: %w", ErrDiskReadOnly, err)
	default: // EACCES: it is not for us to write there
		return fmt.Errorf("%w: %w", ErrDiskUnknown, err)
	}
}
