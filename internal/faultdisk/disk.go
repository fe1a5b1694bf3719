package faultdisk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is returned where disks of one's own cannot be mounted: no
// root, no loop devices, no mkfs.ext4. The error says which.
var ErrUnavailable = errors.New("disks of one's own are unavailable")

// Disk is an ext4 file system on a file in memory.
type Disk struct {
	path    string       // where it is mounted
	backing string       // the tmpfs with its image
	resume  func() error // nil while it does not stall
}

// Private gives the calling goroutine's thread a mount namespace of its own,
// for good: the goroutine keeps the thread until it ends, and the thread ends
// with it. What it starts is in the namespace too. Other threads see what is
// mounted there below the folder that is returned.
func Private() (root string, err error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return "", fmt.Errorf("%w: make mount namespace (are you root?): %w", ErrUnavailable, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("%w: make mounts private: %w", ErrUnavailable, err)
	}
	return fmt.Sprintf("/proc/self/task/%d/root", unix.Gettid()), nil
}

// Mount mounts an empty disk of size bytes at a folder, which it makes.
func Mount(path string, size int64) (_ *Disk, err error) {
	d := &Disk{path: path, backing: path + ".disk"}
	for _, folder := range []string{d.path, d.backing} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of disk: %w", err)
		}
	}
	if err := unix.Mount("faultdisk", d.backing, "tmpfs", 0, "mode=0700"); err != nil {
		return nil, fmt.Errorf("%w: mount memory: %w", ErrUnavailable, err)
	}
	image := filepath.Join(d.backing, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, fmt.Errorf("make image of disk: %w", err)
	}
	if err := os.Truncate(image, size); err != nil {
		return nil, fmt.Errorf("make image of disk: %w", err)
	}
	// All of it can be used by whoever is root or not, and nothing is written
	// later that could be written now.
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
		{"mount", "-o", "loop", image, d.path},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w: %s", ErrUnavailable, command[0], err, strings.TrimSpace(string(out)))
		}
	}
	if err := os.Remove(filepath.Join(d.path, "lost+found")); err != nil {
		return nil, fmt.Errorf("empty the new disk: %w", err)
	}
	return d, nil
}

// ballast is the file that fills the disk.
func (d *Disk) ballast() string { return filepath.Join(d.path, ".ballast") }

// Fill leaves no room on the disk.
func (d *Disk) Fill() error {
	f, err := os.OpenFile(d.ballast(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("fill disk: %w", err)
	}
	defer f.Close()
	end := int64(0)
	for step := int64(1) << 30; step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, end, step); {
		case err == nil:
			end += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("fill disk: %w", err)
		}
	}
	return nil
}

// Free gives the room back.
func (d *Disk) Free() error {
	if err := os.Remove(d.ballast()); err != nil {
		return fmt.Errorf("free disk: %w", err)
	}
	return nil
}

// guard freezes a file system, says so, and thaws it when its input ends: also
// when the process that froze it was killed. Nothing that waits for a frozen
// disk can be killed, so without it a server would be left for ever.
const guard = `fsfreeze --freeze "$0" && echo frozen && cat; fsfreeze --unfreeze "$0"`

// Stall keeps every write and flush to the disk waiting, without an error,
// until Resume. Reads go on.
func (d *Disk) Stall() error {
	cmd := exec.Command("sh", "-c", guard, d.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's interrupt is not for it
	input, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("stall disk: %w", err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("stall disk: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("stall disk: %w", err)
	}
	said, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		return fmt.Errorf("stall disk: %w", errors.Join(err, input.Close(), cmd.Wait()))
	}
	if said != "frozen\n" {
		return fmt.Errorf("stall disk: %q: %w", said, errors.Join(input.Close(), cmd.Wait()))
	}
	d.resume = func() error { return errors.Join(input.Close(), cmd.Wait()) }
	return nil
}

// Resume ends Stall. A disk that does not stall stays as it is.
func (d *Disk) Resume() error {
	if d.resume == nil {
		return nil
	}
	err := d.resume()
	d.resume = nil
	if err != nil {
		return fmt.Errorf("resume disk: %w", err)
	}
	return nil
}

// Break makes the disk read-only at once and for good, as an error of the device
// does: writes to open files fail too.
func (d *Disk) Break() error {
	if err := unix.Mount("", d.path, "", unix.MS_REMOUNT, "abort"); err != nil {
		return fmt.Errorf("break disk: %w", err)
	}
	return nil
}

// Unmount takes the disk away, when nothing uses it any more.
func (d *Disk) Unmount() error {
	err := errors.Join(d.Resume(), unix.Unmount(d.path, 0), unix.Unmount(d.backing, 0))
	if err != nil {
		return fmt.Errorf("unmount disk: %w", err)
	}
	return nil
}
