package receivers

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// trial runs the statements of docs/receiving.md for SQLite on events of one order, and prints for each how many rows
// it has changed, then what waits before and after the work.
const trial = `
import sqlite3, sys
table, store, work = sys.argv[1:]
select, update = [s for s in work.split(";") if s.strip()]
db = sqlite3.connect(":memory:")
db.executescript(table)
rows = []
for sequence, event in ("150", "first"), ("150", "repeat"), ("149", "older"), ("151", "newer"), ("150", "late"):
    rows.append(db.execute(store, {"subject": "a", "sequence": "1768469924687" + sequence, "event": event}).rowcount)
print(*rows, *db.execute(select).fetchall())
db.execute(update, {"subject": "a", "sequence": "1768469924687151"})
print(db.execute(select).fetchall())
`

// TestTheStatementOfThePage: the rule of sequence as the page has it keeps the newest event, whatever comes after it.
func TestTheStatementOfThePage(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		if l.name == "python" {
			l.find(t)
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "receiving.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 5 {
		t.Fatalf("%d blocks of SQL", len(blocks))
	}
	out, err := exec.CommandContext(t.Context(), "python3", "-c", trial, string(blocks[0][1]), string(blocks[1][1]),
		string(blocks[4][1])).CombinedOutput()
	if want := "1 0 0 1 0 ('a', '1768469924687151', 'newer')\n[]"; err != nil ||
		strings.TrimSpace(string(out)) != want {
		t.Errorf("%v: %s, want %s", err, out, want)
	}
}
