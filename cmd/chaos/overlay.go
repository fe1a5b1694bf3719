package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// build makes the program to test: interrex, built from this source as it is
// released, but for the one line of the standard library that lets chaos set
// the clocks of agents (clock.go).
func build(ctx context.Context, folder, program string) error {
	overlay, err := writeOverlay(ctx, folder)
	if err != nil {
		return fmt.Errorf("prepare to build interrex: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-overlay", overlay, "-o", program, "interrex/cmd/interrex")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build interrex: %w: %s", err, out)
	}
	return nil
}

// nowReads is where time.Now has read the clock.
var nowReads = regexp.MustCompile(`(?m)^func Now\(\) Time \{\n\tsec, nsec, mono := \w+\(\)\n`)

// skewSource is the file that the time package gets besides.
const skewSource = `package time

import (
	"syscall"
	"unsafe"
)

// skew is how many seconds the wall clock is off.
var skew = mapSkew()

func mapSkew() *int64 {
	fd, err := syscall.Open("` + skewFile + `", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return new(int64)
	}
	defer syscall.Close(fd)
	memory, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map the clock: " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&memory[0]))
}
`

// writeOverlay writes the replacement of the time package, as go build takes it.
func writeOverlay(ctx context.Context, folder string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	library := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	source, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return "", fmt.Errorf("read the time package: %w", err)
	}
	at := nowReads.FindIndex(source)
	if at == nil {
		return "", fmt.Errorf("change time.Now in %s: this version of Go has another one", library)
	}
	changed := bytes.Join([][]byte{source[:at[1]], source[at[1]:]}, []byte("\tsec += *skew\n"))
	replace := map[string]string{
		filepath.Join(library, "time.go"): filepath.Join(folder, "time.go.txt"),
		filepath.Join(library, "skew.go"): filepath.Join(folder, "skew.go.txt"),
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("write overlay: %w", err)
	}
	overlay := filepath.Join(folder, "overlay.json")
	for path, content := range map[string][]byte{
		filepath.Join(folder, "time.go.txt"): changed,
		filepath.Join(folder, "skew.go.txt"): []byte(skewSource),
		overlay:                              text,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return "", fmt.Errorf("write overlay: %w", err)
		}
	}
	return overlay, nil
}
