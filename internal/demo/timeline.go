package demo

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
)

// Event is one thing that happened.
type Event struct {
	At   time.Time
	Text string
}

// Timeline prints what happens, a line each: the milliseconds since it began,
// those since the last mark, and words. It is safe for concurrent use.
type Timeline struct {
	mu     sync.Mutex
	out    io.Writer
	began  time.Time
	marked time.Time
	width  int
	rest   string // of what was written without the end of its line
}

// NewTimeline begins a timeline that wraps its words so that lines have at
// most width columns.
func NewTimeline(out io.Writer, began time.Time, width int) *Timeline {
	return &Timeline{out: out, began: began, width: width}
}

// Say tells what happens now.
func (t *Timeline) Say(format string, args ...any) { t.At(time.Now(), format, args...) }

// At tells what happened at a moment.
func (t *Timeline) At(at time.Time, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.print(at, fmt.Sprintf(format, args...))
}

// Tell tells of several events in the order they happened.
func (t *Timeline) Tell(events []Event) {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range events {
		t.print(e.At, e.Text)
	}
}

// Mark has the second column count from at on; the zero time leaves it out.
func (t *Timeline) Mark(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marked = at
}

// Section separates what follows with a title.
func (t *Timeline) Section(title string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n%s\n", title)
}

// Write tells every line of what others print.
func (t *Timeline) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(t.rest+string(p), "\n")
	t.rest = lines[len(lines)-1]
	for _, l := range lines[:len(lines)-1] {
		t.print(time.Now(), l)
	}
	return len(p), nil
}

// columns is how wide the two columns of times are.
const columns = 24

func (t *Timeline) print(at time.Time, words string) {
	since := ""
	if !t.marked.IsZero() {
		since = fmt.Sprintf("%+d", at.Sub(t.marked).Milliseconds())
	}
	lines := strings.Split(text.WrapSoft(words, max(40, t.width-columns)), "\n")
	fmt.Fprintf(t.out, "%7d ms %9s    %s\n", at.Sub(t.began).Milliseconds(), since, strings.TrimRight(lines[0], " "))
	for _, l := range lines[1:] {
		fmt.Fprintf(t.out, "%*s%s\n", columns, "", strings.TrimRight(l, " "))
	}
}
