package nethost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVariable tells a program that is started again which of its three lives
// it leads.
const stageVariable = "INTERREX_NETHOST_STAGE"

// The lives: outside, where the variable is not set; init, the first process of
// the world, which reaps what is orphaned in it; inside, the program proper.
const (
	stageInit   = "init"
	stageInside = "inside"
)

// Enter runs the program again in a world of its own. In there it returns
// inside true, and the program does its work. Outside it returns inside false
// and the exit code of the one in there, when that has ended and the kernel has
// taken down everything it started. Call it first thing in main or TestMain: in
// the process between the two it does not return.
//
// SIGINT and SIGTERM are passed on. Where no world can be made the error is
// ErrUnavailable.
func Enter() (inside bool, code int, err error) {
	switch os.Getenv(stageVariable) {
	case stageInit:
		os.Exit(initialise())
	case stageInside:
		return true, 0, os.Unsetenv(stageVariable)
	}
	code, err = runWorld()
	return false, code, err
}

// runWorld starts init in new namespaces and waits for it.
func runWorld() (int, error) {
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), stageVariable+"="+stageInit)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		// A group of its own: a terminal's interrupt comes once, from here.
		Setpgid:   true,
		Pdeathsig: syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	// The kernel sends Pdeathsig when the thread ends that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: start in new namespaces (are you root?): %w", ErrUnavailable, err)
	}
	stop := passOn(cmd.Process.Pid)
	defer stop()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exitCode(exit.Sys().(syscall.WaitStatus)), nil
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the program in its world: %w", err)
	}
	return 0, nil
}

// initialise is the life of a world's first process: it makes the world's
// mounts private, starts the program, reaps whatever ends, and ends with the
// program; then the kernel kills the rest.
func initialise() int {
	fail := func(what string, err error) int {
		fmt.Fprintf(os.Stderr, "nethost: %s: %v\n", what, err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail("make mounts private", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fail("mount /proc", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return fail("find own program", err)
	}
	env := []string{stageVariable + "=" + stageInside}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, stageVariable+"=") {
			env = append(env, v)
		}
	}
	pid, err := syscall.ForkExec(exe, os.Args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return fail("start the program in its world", err)
	}
	stop := passOn(pid)
	defer stop()
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fail("wait for the program in its world", err)
		case ended == pid:
			return exitCode(status)
		}
	}
}

// passOn sends a process the signals that ask this one to end.
func passOn(pid int) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			_ = syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// exitCode is a process's exit code as a shell tells it.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// descriptorPath is the path of this process's descriptor, for others to open.
func descriptorPath(f *os.File) string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(f.Fd()))
}
