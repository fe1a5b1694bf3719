package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// maxEdits is how often an edit is begun anew because the file changed under
// it.
const maxEdits = 3

// apply brings file and nginx to what is wanted. It returns how long the
// reload took, 0 if none was needed. On an error the file is as it was before
// (but for ErrNotRunning), or somebody else's.
func (r *Rewriter) apply(ctx context.Context, wants []want) (reload time.Duration, err error) {
	t, err := findTarget(r.cfg.File)
	if err != nil {
		return 0, err
	}
	release, err := t.acquire(ctx, r.cfg.CommandLimit)
	if err != nil {
		return 0, err
	}
	defer release()
	for range maxEdits {
		var took time.Duration
		took, err = r.applyOnce(ctx, t, wants)
		reload = max(reload, took)
		if !errors.Is(err, ErrEdited) {
			break
		}
	}
	return reload, err
}

func (r *Rewriter) applyOnce(ctx context.Context, t target, wants []want) (time.Duration, error) {
	before, err := t.read()
	if err != nil {
		return 0, err
	}
	text, err := edit(before.text, wants)
	if err != nil {
		return 0, fmt.Errorf("edit %s: %w", t.path, err)
	}
	if bytes.Equal(text, before.text) {
		return r.resume(ctx, t, before)
	}
	if err := before.write(t.next, text); err != nil {
		return 0, fmt.Errorf("write new configuration: %w", err)
	}
	tested := !t.linked && slices.Contains(r.cfg.TestCommand[1:], r.cfg.File)
	if tested {
		if err := r.test(ctx, t.next); err != nil {
			return 0, errors.Join(err, t.finish())
		}
	}
	if err := errors.Join(t.backUp(before), t.begin(text)); err != nil {
		return 0, errors.Join(err, t.finish())
	}
	if now, err := t.read(); err != nil || !bytes.Equal(now.text, before.text) {
		return 0, errors.Join(ErrEdited, err, t.finish())
	}
	if err := t.put(); err != nil {
		return 0, errors.Join(err, t.finish())
	}
	// From here on the change is finished or taken back, also when the agent
	// is told to stop; every step has its own limit.
	ctx = context.WithoutCancel(ctx)
	if !tested {
		if err := r.test(ctx, r.cfg.File); err != nil {
			return 0, errors.Join(err, t.restore(before, text), t.finish())
		}
	}
	return r.load(ctx, t, before, text)
}

// load makes nginx read text, which is in place, and puts before back if it
// doesn't.
func (r *Rewriter) load(ctx context.Context, t target, before version, text []byte) (time.Duration, error) {
	took, err := r.reload(ctx)
	switch {
	case errors.Is(err, ErrNotRunning):
		return 0, err // still pending: it is reloaded when nginx is back
	case err != nil:
		err = errors.Join(err, t.restore(before, text))
		if _, again := r.reload(ctx); again != nil {
			err = errors.Join(err, fmt.Errorf("reload the previous configuration: %w", again))
		}
		return 0, errors.Join(err, t.finish())
	}
	if err := t.finish(); err != nil {
		return took, err
	}
	if now, err := t.read(); err != nil || !bytes.Equal(now.text, text) {
		return took, errors.Join(ErrEdited, err)
	}
	return took, nil
}

// resume ends a change that an agent began and could not finish: the file says
// what it should, but nginx may not have read it yet.
func (r *Rewriter) resume(ctx context.Context, t target, now version) (time.Duration, error) {
	hash, unfinished := t.unfinished()
	if !unfinished {
		return 0, nil
	}
	r.log.Info("finishing a change of the nginx configuration that was cut short", zap.String("file", t.path))
	ctx = context.WithoutCancel(ctx)
	previous := now
	if text, err := os.ReadFile(t.previous); err == nil && hash == hashOf(now.text) {
		previous.text = text
	}
	if err := r.test(ctx, r.cfg.File); err != nil {
		if bytes.Equal(previous.text, now.text) {
			return 0, err // not our text that fails: it stays, and so does the mark
		}
		return 0, errors.Join(err, t.restore(previous, now.text), t.finish())
	}
	return r.load(ctx, t, previous, now.text)
}

// test asks nginx about its configuration, with the text at path in the place
// of the file.
func (r *Rewriter) test(ctx context.Context, path string) error {
	argv := slices.Clone(r.cfg.TestCommand)
	for i := range argv[1:] {
		if argv[i+1] == r.cfg.File {
			argv[i+1] = path
		}
	}
	stderr, _, err := runCommand(ctx, argv, r.cfg.CommandLimit)
	if err != nil {
		return fmt.Errorf("%w: %w: %s", ErrTestFailed, err, digest(stderr))
	}
	return nil
}

// reload makes nginx read its configuration and waits until it lives by it.
func (r *Rewriter) reload(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	m, err := findMaster(r.cfg.PIDFile)
	if err != nil {
		return 0, err
	}
	defer func() { _ = m.process.Release() }()
	old := m.workers()
	if err := r.signalReload(ctx, m); err != nil {
		return 0, err
	}
	if err := m.awaitReplaced(ctx, old, r.cfg.LiveLimit); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// digest shortens what nginx said to its last lines, on one line.
func digest(output string) string {
	const most = 1000
	s := strings.Join(strings.Split(strings.TrimSpace(output), "\n"), "; ")
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return strings.ToValidUTF8(s, "?")
}
