package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"interrex/internal/topology"
)

// screen is where a command prints to. What a person looks at has lines and
// colours and fits the terminal; what a program reads is plain.
type screen struct {
	out      io.Writer
	terminal bool
	color    bool
	width    int // columns; 0 when not known
	now      time.Time
}

func newScreen(out io.Writer) screen {
	s := screen{out: out, now: time.Now()}
	if file, ok := out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil {
			s.terminal, s.width = true, int(size.Col)
			s.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		}
	}
	return s
}

// isTerminal tells whether a person can answer there.
func isTerminal(in io.Reader) bool {
	file, ok := in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

func (s screen) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

func (s screen) paint(c text.Color, words string) string {
	if !s.color || words == "" {
		return words
	}
	return c.EscapeSeq() + words + text.Reset.EscapeSeq()
}

func (s screen) good(words string) string { return s.paint(text.FgGreen, words) }
func (s screen) warn(words string) string { return s.paint(text.FgYellow, words) }
func (s screen) bad(words string) string  { return s.paint(text.FgRed, words) }
func (s screen) bold(words string) string { return s.paint(text.Bold, words) }

// field prints one line of a header; further lines of text are indented.
func (s screen) field(name, words string) {
	lines := strings.Split(words, "\n")
	s.printf("%-12s%s\n", name, lines[0])
	for _, l := range lines[1:] {
		s.printf("%-12s%s\n", "", l)
	}
}

// table prints a table; numbers are the columns that are right-aligned, wide
// the one that is wrapped where the terminal is too narrow (0: none).
func (s screen) table(rows []table.Row, wide int, numbers []int, header ...any) {
	t := table.NewWriter()
	t.AppendHeader(table.Row(header))
	t.AppendRows(rows)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	if !s.terminal {
		style.Options = table.OptionsNoBordersAndSeparators
		style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	}
	t.SetStyle(style)
	var columns []table.ColumnConfig
	for _, n := range numbers {
		columns = append(columns, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	if wide > 0 && s.width > 0 {
		columns = append(columns, table.ColumnConfig{Number: wide, WidthMax: s.room(rows, wide, header), WidthMaxEnforcer: text.WrapSoft})
	}
	t.SetColumnConfigs(columns)
	for line := range strings.Lines(t.Render() + "\n") {
		s.printf("%s\n", strings.TrimRight(line, " \n"))
	}
}

// room is what the other columns leave of the terminal's width.
func (s screen) room(rows []table.Row, wide int, header []any) int {
	left := s.width - 1
	for i := range header {
		longest := text.StringWidthWithoutEscSequences(fmt.Sprint(header[i]))
		for _, r := range rows {
			if i < len(r) {
				longest = max(longest, text.LongestLineLen(fmt.Sprint(r[i])))
			}
		}
		left -= 3
		if i != wide-1 {
			left -= longest
		}
	}
	return max(20, left)
}

// outputFlag adds -o to a command.
func outputFlag(command *cobra.Command, output *string) {
	command.Flags().StringVarP(output, "output", "o", outputTable, "table, or json for the API's answer as it is")
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions( // fails only for a flag that does not exist
		[]string{outputTable, outputJSON}, cobra.ShellCompDirectiveNoFileComp))
}

const (
	outputTable = "table"
	outputJSON  = "json"
)

func checkOutput(output string) error {
	if output != outputTable && output != outputJSON {
		return usageError{fmt.Errorf("output %q is none of table, json", output)}
	}
	return nil
}

// printJSON prints an answer indented and otherwise as it came.
func printJSON(out io.Writer, answer []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, answer, "", "  "); err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	b.WriteByte('\n')
	_, err := out.Write(b.Bytes())
	return err
}

// when prints a moment for people, in the time zone of now.
func (s screen) when(t time.Time) string {
	return t.In(s.now.Location()).Format("2006-01-02 15:04:05 MST")
}

// ago prints how long ago a moment was.
func (s screen) ago(t time.Time) string {
	d := s.now.Sub(t)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// millisText prints milliseconds with as many digits as mean something.
func millisText(ms float64) string {
	switch {
	case ms == 0:
		return "0 ms"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 60_000:
		return fmt.Sprintf("%.2f s", ms/1000)
	}
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Second).String()
}

// names prints a list of members; "none" if it is empty.
func names(list []topology.NodeName) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = string(n)
	}
	return strings.Join(words, ", ")
}

// orDash prints "-" for nothing.
func orDash(words string) string {
	if words == "" {
		return "-"
	}
	return words
}

// writeJSON prints a value of this program's own.
func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
