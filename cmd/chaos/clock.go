package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Agents are static programs that read the clock without a system call, and a
// machine has one wall clock: neither a preloaded library nor a namespace can
// give one agent a wrong time. So the interrex that chaos tests is built from
// the same source with another time package (overlay.go): its time.Now adds
// what is in this file, in the agent's working folder. Time that passes (timers,
// deadlines, time.Since) stays right, as on a host whose clock is set.
const (
	skewFile = "clock-skew"
	skewSize = 8 // seconds, little endian
)

// setClock puts the clock of a node's agent off by that much, and makes sure, if
// the agent answers, that it is.
func (c *cluster) setClock(ctx context.Context, n *node, off time.Duration) error {
	if err := writeSkew(n.Dir, off); err != nil {
		return fmt.Errorf("set clock of %s: %w", n.Name, err)
	}
	date, err := c.clock(ctx, n)
	if err != nil {
		return nil //nolint:nilerr // it is dead or cut off; its clock is set all the same
	}
	const slow = 5 * time.Second
	if wrong := time.Until(date) - off; wrong.Abs() > slow {
		return fmt.Errorf("set clock of %s: it is off by %s and should be by %s", n.Name, time.Until(date), off)
	}
	return nil
}

// writeSkew sets the clock of the programs that were started in a folder.
func writeSkew(folder string, off time.Duration) error {
	file, err := os.OpenFile(filepath.Join(folder, skewFile), os.O_WRONLY, 0) // the same file: it is mapped
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(binary.LittleEndian.AppendUint64(nil, uint64(int64(off/time.Second))))
	return err
}

// clock is what an agent takes for the time, by the date in its answers.
func (c *cluster) clock(ctx context.Context, n *node) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.APIBase()+"/health", http.NoBody)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask %s for the time: %w", n.Name, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask %s for the time: %w", n.Name, err)
	}
	_ = response.Body.Close()
	return http.ParseTime(response.Header.Get("Date"))
}
