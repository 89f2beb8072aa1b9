package browser

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// readsDocs reads the relay's documents of its API, on a phone and on a wide screen.
func readsDocs(t *testing.T, w *world) {
	for _, b := range []*tab{
		w.browser(t).tab("docs on a phone"),
		w.browser(t).tab("docs on a wide screen", chromedp.EmulateViewport(1280, 800)),
	} {
		b.open(w.public + "/")
		b.wants("audatex relay")
		b.judge("start")
		b.press(`a[href$="/docs"]`)
		b.wants("audatex relay: API reference")
		b.judge("reference")
		ask(b, chromedp.Evaluate[int](`document.querySelectorAll("details").forEach(d => d.open = true); 0`))
		b.judge("reference with everything open")
		b.press(`a[href$="/docs/events/audatex.parts.order.updated"]`)
		b.wants("audatex.parts.order.updated")
		b.judge("event")
		b.open(w.public + "/problems/invalid-body")
		b.judge("problem")
	}
}
