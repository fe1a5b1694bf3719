package nethost_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/nethost"
)

// These make this program something else than the test.
const (
	listenVariable = "INTERREX_NETHOST_TEST_LISTEN" // a server on a host
	leaveVariable  = "INTERREX_NETHOST_TEST_LEAVE"  // a program that leaves everything behind
)

func TestMain(m *testing.M) {
	if address := os.Getenv(listenVariable); address != "" {
		listen(address)
	}
	inside, code, err := nethost.Enter()
	if _, missing := exec.LookPath("nft"); inside && missing != nil {
		fmt.Fprintln(os.Stderr, "THE TESTS OF nethost ARE LEFT OUT: install nftables to run them:", missing)
		return
	}
	switch {
	case errors.Is(err, nethost.ErrUnavailable):
		fmt.Fprintln(os.Stderr, "THE TESTS OF nethost ARE LEFT OUT:", err)
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case !inside:
		os.Exit(code)
	case os.Getenv(leaveVariable) != "":
		leave()
	}
	os.Exit(m.Run())
}

// listen prints every datagram that comes, answers the greeting to those who
// connect, and goes on until it is killed.
func listen(address string) {
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				panic(err)
			}
			_, _ = conn.Write([]byte("hello\n"))
			_ = conn.Close()
		}
	}()
	fmt.Println("ready")
	text := make([]byte, 100)
	for {
		n, _, err := packets.ReadFrom(text)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(text[:n]))
	}
}

// leave makes all there is to make and waits to be killed.
func leave() {
	network, err := nethost.NewNetwork(context.Background(), "a")
	if err != nil {
		panic(err)
	}
	command := append(network.Hosts()[0].Enter(), "sleep", "1000")
	if err := exec.Command(command[0], command[1:]...).Start(); err != nil {
		panic(err)
	}
	if err := syscall.Mount("none", os.Getenv(leaveVariable), "tmpfs", 0, "size=1m"); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv(leaveVariable), "file"), nil, 0o600); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	select {}
}

// server is listen, running on a host.
type server struct {
	address string
	heard   chan string
}

const port = 4000

func startServer(t *testing.T, h *nethost.Host, port int) server {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	s := server{address: net.JoinHostPort(h.Address, strconv.Itoa(port)), heard: make(chan string, 100)}
	command := append(h.Enter(), exe)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), listenVariable+"="+s.address)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range s.heard { // until its output ends
		}
		_ = cmd.Wait()
	})
	go func() {
		defer close(s.heard)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.heard <- lines.Text()
		}
	}()
	require.Equal(t, "ready", <-s.heard)
	return s
}

// patience is for what must come; what must not come is awaited for a while.
const (
	patience = 10 * time.Second
	while    = 300 * time.Millisecond
)

// connects tells whether a connection from here is greeted.
func (s server) connects() bool {
	conn, err := net.DialTimeout("tcp", s.address, while)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(while))
	text, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && text == "hello\n"
}

// hears tells whether a datagram from here or from a host arrives.
func (s server) hears(t *testing.T, from *nethost.Host, limit time.Duration) bool {
	t.Helper()
	word := fmt.Sprint("word ", time.Now().UnixNano())
	var command []string
	if from != nil {
		command = from.Enter()
	}
	host, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	command = append(command, "bash", "-c", fmt.Sprintf("echo -n %q > /dev/udp/%s/%s", word, host, port))
	// Whoever is cut off is not told so.
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, string(out))
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case heard := <-s.heard:
			if heard == word {
				return true
			}
		case <-timer.C:
			return false
		}
	}
}

func TestCuts(t *testing.T) {
	network, err := nethost.NewNetwork(t.Context(), "a", "b", "c")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Close(context.Background())) })
	hosts := network.Hosts()
	a, b, c := hosts[0], hosts[1], hosts[2]
	atA, atB := startServer(t, a, port), startServer(t, b, port)
	other := startServer(t, a, port+1)
	open := func(t *testing.T) {
		t.Helper()
		require.True(t, atA.connects())
		require.True(t, other.connects())
		require.True(t, atA.hears(t, b, patience))
		require.True(t, atA.hears(t, c, patience))
		require.True(t, atB.hears(t, a, patience))
		require.True(t, atA.hears(t, a, patience), "itself")
	}
	cut := func(t *testing.T, drops ...nethost.Drop) *nethost.Cut {
		t.Helper()
		made, err := network.Cut(t.Context(), drops...)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, made.Heal(context.Background()))
			open(t)
			require.NoError(t, made.Heal(context.Background()), "a second time")
		})
		return made
	}
	open(t)

	t.Run("a host", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, In: true, Out: true})
		require.False(t, atA.connects())
		require.False(t, atA.hears(t, b, while))
		require.False(t, atB.hears(t, a, while))
		require.True(t, atA.hears(t, a, patience), "it reaches itself")
		require.True(t, atB.hears(t, c, patience), "the others go on")
	})
	t.Run("what comes in", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, In: true})
		require.False(t, atA.hears(t, b, while))
		require.True(t, atB.hears(t, a, patience))
		require.False(t, atA.connects())
	})
	t.Run("what goes out", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, Out: true})
		require.True(t, atA.hears(t, b, patience))
		require.False(t, atB.hears(t, a, while))
		require.False(t, atA.connects())
	})
	t.Run("a pair", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, In: true, Out: true, Peer: b.Address})
		require.False(t, atA.hears(t, b, while))
		require.False(t, atB.hears(t, a, while))
		require.True(t, atA.hears(t, c, patience))
		require.True(t, atA.connects())
	})
	t.Run("a port", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, In: true, Out: true, Ports: []int{port}})
		require.False(t, atA.connects())
		require.False(t, atA.hears(t, b, while))
		require.False(t, atB.hears(t, a, while), "the same port of another host")
		require.True(t, other.connects())
	})
	t.Run("a protocol of a port", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, In: true, Out: true, Ports: []int{port}, Protocol: "udp"})
		require.False(t, atA.hears(t, b, while))
		require.True(t, atA.connects())
	})
	t.Run("the answers of a port", func(t *testing.T) {
		cut(t, nethost.Drop{At: a, Out: true, Ports: []int{port}})
		require.True(t, atA.hears(t, b, patience))
		require.False(t, atA.connects())
	})
	t.Run("two that overlap", func(t *testing.T) {
		first := cut(t, nethost.Drop{At: a, In: true})
		cut(t, nethost.Drop{At: a, In: true, Peer: b.Address})
		require.NoError(t, first.Heal(t.Context()))
		require.False(t, atA.hears(t, b, while))
		require.True(t, atA.hears(t, c, patience))
	})
	t.Run("the link", func(t *testing.T) {
		require.NoError(t, a.SetLink(t.Context(), false))
		require.False(t, atA.connects())
		require.NoError(t, a.SetLink(t.Context(), true))
		// The kernel tells the bridge of it within a second.
		require.Eventually(t, atA.connects, patience, 10*time.Millisecond)
		open(t)
	})
}

// TestNothingIsLeft kills a program that is in a world and has hosts, processes
// and mounts there.
func TestNothingIsLeft(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	mark := leaveVariable + "=" + t.TempDir()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), mark)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	// The one outside, the first inside, the program, its process on the host.
	// While one of them turns into another program its environment reads empty.
	require.Eventually(t, func() bool { return len(marked(t, mark)) == 4 }, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	deadline := time.Now().Add(patience)
	for len(marked(t, mark)) > 0 {
		require.True(t, time.Now().Before(deadline), "processes %v go on", marked(t, mark))
		time.Sleep(10 * time.Millisecond)
	}
	files, err := os.ReadDir(strings.TrimPrefix(mark, leaveVariable+"="))
	require.NoError(t, err)
	require.Empty(t, files, "the mount was the world's own")
}

// marked are the processes that have a variable in their environment.
func marked(t *testing.T, variable string) (found []string) {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, environ := range environs {
		text, _ := os.ReadFile(environ) // of one that ends it is empty
		if bytes.Contains(text, []byte(variable+"\x00")) {
			found = append(found, filepath.Dir(environ))
		}
	}
	return found
}

// TestEnterPassesOn checks exit codes and signals.
func TestEnterPassesOn(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	err = exec.Command(exe, "-test.run", "nothing", "-no-such-flag").Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 2, exit.ExitCode())

	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), leaveVariable+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 128+int(syscall.SIGTERM), exit.ExitCode())
}
