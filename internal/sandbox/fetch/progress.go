package fetch

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/mattn/go-isatty"
)

// Progress shows how far a fetch has come. It is used by one goroutine at a
// time. Use NewProgress, or Quiet for none.
type Progress interface {
	// Step says what begins now.
	Step(text string)
	// Bytes says how much of a download is there. It may be called often.
	Bytes(done, total int64)
}

// Quiet shows nothing.
type Quiet struct{}

// Step shows nothing.
func (Quiet) Step(string) {}

// Bytes shows nothing.
func (Quiet) Bytes(int64, int64) {}

// NewProgress writes one line per step to w, and downloads as a bar that
// redraws itself if w is a terminal, else as one line per quarter.
func NewProgress(w io.Writer) Progress {
	f, ok := w.(*os.File)
	return &writerProgress{w: w, terminal: ok && isatty.IsTerminal(f.Fd())}
}

type writerProgress struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	quarter  int64 // last quarter printed, plus one
	drawn    bool
}

func (p *writerProgress) Step(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endBar()
	p.quarter = 0
	fmt.Fprintln(p.w, text)
}

func (p *writerProgress) Bytes(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if total <= 0 {
		return
	}
	done = min(done, total)
	const mb = 1e6
	if !p.terminal {
		if quarter := done * 4 / total; quarter >= p.quarter && quarter > 0 {
			p.quarter = quarter + 1
			fmt.Fprintf(p.w, "  %.1f of %.1f MB\n", float64(done)/mb, float64(total)/mb)
		}
		return
	}
	const width = 30
	full := int(done * width / total)
	fmt.Fprintf(p.w, "\r  [%s%s] %5.1f of %.1f MB", strings.Repeat("=", full), strings.Repeat(" ", width-full), float64(done)/mb, float64(total)/mb)
	p.drawn = true
	if done == total {
		p.endBar()
	}
}

func (p *writerProgress) endBar() {
	if p.drawn {
		fmt.Fprintln(p.w)
		p.drawn = false
	}
}
