package demo

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminalWidth returns how many columns out has, if it is a terminal.
func terminalWidth(out io.Writer) (int, bool) {
	f, ok := out.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}

// palette colours text on a terminal; its zero value leaves it plain.
type palette struct{ on bool }

// newPalette honours NO_COLOR (no-color.org) and dumb terminals.
func newPalette(terminal bool) palette {
	return palette{terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p palette) in(code, text string) string {
	if !p.on || code == "" || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p palette) dim(text string) string    { return p.in("2", text) }
func (p palette) strong(text string) string { return p.in("1", text) }
func (p palette) good(text string) string   { return p.in("32", text) }
func (p palette) bad(text string) string    { return p.in("1;31", text) }

var statusColours = map[string]string{
	"New": "36", "Confirmed": "34", "Dispatched": "33", "Delivered": "32",
	"Cancelled": "31", "ReturnRejected": "31", "ReturnRequested": "35", "ReturnAccepted": "35",
}

// status colours an order's status; an unknown one stays as it is.
func (p palette) status(status string) string { return p.in(statusColours[status], status) }
