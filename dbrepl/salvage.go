package dbrepl

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"interrex/internal/gtid"
)

// SaveErrant writes the transactions of set from the server's binary logs to
// file, as text that the mysql client replays under their own GTIDs. The
// server must be up (closed is fine) and its binary logs on this host. The
// file is complete, flushed and of mode 0600, or it is not there at all; an
// existing one is replaced. ErrIncomplete names what the logs do not have.
func (i *Instance) SaveErrant(ctx context.Context, set gtid.Set, file string) error {
	if err := i.saveErrant(ctx, set, file); err != nil {
		return fmt.Errorf("save transactions to %s: %w", file, err)
	}
	return nil
}

func (i *Instance) saveErrant(ctx context.Context, set gtid.Set, file string) error {
	logs, err := i.binaryLogs(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // renamed when all is well
	defer tmp.Close()
	saved, err := i.dump(ctx, set, logs, tmp)
	if err != nil {
		return err
	}
	if missing := set.Minus(saved); !missing.IsEmpty() {
		return fmt.Errorf("%w: %s", ErrIncomplete, missing)
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// dump runs mysqlbinlog over the logs and returns which transactions it wrote.
func (i *Instance) dump(ctx context.Context, set gtid.Set, logs []string, out io.Writer) (gtid.Set, error) {
	args := append(append([]string{}, i.cfg.MysqlBinlog[1:]...), "--no-defaults", "--include-gtids="+set.String())
	cmd := exec.CommandContext(ctx, i.cfg.MysqlBinlog[0], append(args, logs...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return gtid.Set{}, err
	}
	if err := cmd.Start(); err != nil {
		return gtid.Set{}, fmt.Errorf("run mysqlbinlog: %w", err)
	}
	saved, copyErr := copyDump(out, stdout)
	if copyErr != nil { // let it end: nobody reads any more
		_ = cmd.Process.Kill()
	}
	if err := errors.Join(copyErr, cmd.Wait()); err != nil {
		return gtid.Set{}, fmt.Errorf("run mysqlbinlog: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return saved, nil
}

var gtidNext = regexp.MustCompile(`^SET @@SESSION\.GTID_NEXT= '([0-9a-fA-F-]+:[^']+)'`)

// copyDump copies the text and collects the GTIDs of the transactions in it.
func copyDump(out io.Writer, in io.Reader) (gtid.Set, error) {
	var saved gtid.Set
	buffered := bufio.NewWriter(out)
	reader := bufio.NewReaderSize(in, 1<<16)
	for {
		line, err := reader.ReadSlice('\n')
		if _, err := buffered.Write(line); err != nil {
			return saved, err
		}
		if m := gtidNext.FindSubmatch(line); m != nil {
			one, err := gtid.Parse(string(m[1]))
			if err != nil {
				return saved, err
			}
			saved = saved.Union(one)
		}
		switch {
		case errors.Is(err, io.EOF):
			return saved, buffered.Flush()
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return saved, err
		}
	}
}

// binaryLogs lists the files of the server's binary log index.
func (i *Instance) binaryLogs(ctx context.Context) ([]string, error) {
	var index, datadir string
	if err := i.command.QueryRowContext(ctx, "SELECT @@global.log_bin_index, @@global.datadir").Scan(&index, &datadir); err != nil {
		return nil, fmt.Errorf("find binary logs: %w", err)
	}
	text, err := os.ReadFile(i.localPath(datadir, index))
	if err != nil {
		return nil, fmt.Errorf("read binary log index: %w", err)
	}
	var logs []string
	for _, line := range strings.Fields(string(text)) {
		logs = append(logs, i.localPath(datadir, line))
	}
	return logs, nil
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
