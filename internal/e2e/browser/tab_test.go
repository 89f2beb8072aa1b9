package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// phone is the width of a phone, in CSS pixels.
const phone, phoneHeight = 390, 844

// startChromium starts the browser that all tests share; each has a profile of its own in it.
func startChromium(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(harness.Patience))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", chromium, err)
	}
	return ctx
}

// step is what a tab is made to do.
type step = chromedp.Action[chromedp.Void]

// browser is a profile: cookies of its own.
type browser struct {
	t      *testing.T
	parent context.Context
	ctx    context.Context // of its first tab
}

func (w *world) browser(t *testing.T) *browser { return &browser{t: t, parent: w.chrome} }

// tab is one tab of a browser.
type tab struct {
	t    *testing.T
	name string // of its pictures
	ctx  context.Context
	mute bool // no page runs a script

	mu        sync.Mutex
	callbacks []string // addresses of /oauth/callback that it loaded
	blocked   []string // what the browser refused to do
	shots     int
}

// tab opens a tab. Pages are as wide as a phone, unless a width is given.
func (b *browser) tab(name string, steps ...step) *tab {
	b.t.Helper()
	var cancel context.CancelFunc
	var ctx context.Context
	if b.ctx == nil {
		ctx, cancel = chromedp.NewContext(b.parent, chromedp.WithNewBrowserContext())
		b.ctx = ctx
	} else {
		// a tab in the background does not take part
		ctx, cancel = chromedp.NewContext(b.ctx, chromedp.WithNewWindow(true))
	}
	b.t.Cleanup(cancel)
	tab := &tab{t: b.t, name: name, ctx: ctx}
	if err := chromedp.Listen(ctx, tab.hear); err != nil {
		b.t.Fatalf("open a tab: %v", err)
	}
	tab.do(append([]step{
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
			return err
		}),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, cdplog.Enable, cdp.Empty{})
			return err
		}),
		chromedp.EmulateViewport(phone, phoneHeight, chromedp.EmulateMobile),
	}, steps...)...)
	return tab
}

// withoutScripts lets no page run a script from now on.
func (b *tab) withoutScripts() *tab {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled,
			emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
	b.mute = true
	return b
}

// hear notes what the tests ask for later.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if strings.Contains(e.Request.URL, "/oauth/callback?") {
			b.callbacks = append(b.callbacks, e.Request.URL)
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Source == cdplog.EntrySourceSecurity || strings.Contains(e.Entry.Text, "Content Security Policy") {
			b.blocked = append(b.blocked, e.Entry.Text)
		}
	}
}

// do runs steps, none of which may take longer than a busy machine makes it.
func (b *tab) do(steps ...step) {
	b.t.Helper()
	for _, s := range steps {
		within(b, "a step", func() (chromedp.Void, error) { return chromedp.Run(b.ctx, s) })
	}
}

// ask runs a step and returns what it is for.
func ask[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	return within(b, "a question", func() (T, error) { return chromedp.Run(b.ctx, a) })
}

// within waits for what a browser does, as long as a busy machine may need.
func within[T any](b *tab, what string, run func() (T, error)) T {
	b.t.Helper()
	var got T
	done := make(chan error, 1)
	go func() {
		v, err := run()
		got = v
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			b.t.Fatalf("%s: %s: %v", b.name, what, err)
		}
		return got
	case <-time.After(harness.Patience):
		b.t.Fatalf("%s: %s takes too long on a page that says: %s", b.name, what, b.text())
		panic("unreachable")
	}
}

// load runs a step that leads to another page, and waits for that.
func (b *tab) load(s step) {
	b.t.Helper()
	within(b, "the next page", func() (*network.Response, error) { return chromedp.RunResponse(b.ctx, s) })
	b.do(chromedp.WaitReady(chromedp.CSS("body")))
}

func (b *tab) open(url string)       { b.t.Helper(); b.load(chromedp.Navigate(url)) }
func (b *tab) press(selector string) { b.t.Helper(); b.load(chromedp.Click(chromedp.CSS(selector))) }
func (b *tab) heading() string {
	b.t.Helper()
	return strings.TrimSpace(ask(b, chromedp.Text(chromedp.CSS("h1"))))
}

// wants fails unless the page's heading is this.
func (b *tab) wants(heading string) {
	b.t.Helper()
	if got := b.heading(); got != heading {
		b.t.Fatalf("%s: the page is %q, want %q; it says: %s", b.name, got, heading, b.text())
	}
}

// says fails unless the page has all these words.
func (b *tab) says(words ...string) {
	b.t.Helper()
	text := b.text()
	for _, word := range words {
		if !strings.Contains(text, word) {
			b.t.Errorf("%s: the page does not say %q: %s", b.name, word, text)
		}
	}
}

func (b *tab) text() string {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body"))) // for a message
	return text
}

// signIn fills in the vendor's login page and allows all that is asked for.
func (b *tab) signIn(s site) {
	b.t.Helper()
	b.login(s, password)
	b.press("#allow")
}

func (b *tab) login(s site, password string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS("input[name=CompanyCode]"), s.company),
		chromedp.SetValue(chromedp.CSS("input[name=UserName]"), s.user),
		chromedp.SendKeys(chromedp.CSS("input[name=Password]"), password))
	b.press("#signin")
}

// judge looks at the page: it fits the window, axe-core finds nothing serious, nothing on it was blocked. A picture of
// it goes to RELAY_SCREENSHOTS.
func (b *tab) judge(what string) {
	b.t.Helper()
	b.picture(what)
	width, window := ask(b, chromedp.Evaluate[int](`document.documentElement.scrollWidth`)),
		ask(b, chromedp.Evaluate[int](`window.innerWidth`))
	if width > window {
		b.t.Errorf("%s, %s: the page is %d pixels wide in a window of %d", b.name, what, width, window)
	}
	b.mu.Lock()
	if len(b.blocked) > 0 {
		b.t.Errorf("%s, %s: the browser refused: %q", b.name, what, b.blocked)
	}
	b.mu.Unlock()
	if axe == "" || b.mute { // axe-core is a script
		return
	}
	ask(b, chromedp.Evaluate[int](axe+`; 0`))
	raw := ask(b, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(
		v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.html).slice(0, 3)}))))`, chromedp.EvalAwaitPromise))
	var violations []struct {
		ID, Impact, Help string
		Nodes            []string
	}
	if err := json.Unmarshal([]byte(raw), &violations); err != nil {
		b.t.Fatalf("%s: axe-core: %v in %s", b.name, err, raw)
	}
	for _, v := range violations {
		b.t.Errorf("%s, %s: axe-core finds (%s) %s: %s %q", b.name, what, v.Impact, v.ID, v.Help, v.Nodes)
	}
}

// highest is how high a page is of which Chromium makes one picture. Of higher ones it is the window.
const highest = 16_000

func (b *tab) picture(what string) {
	b.t.Helper()
	dir := os.Getenv("RELAY_SCREENSHOTS")
	if dir == "" {
		return
	}
	shot := chromedp.FullScreenshot(100)
	if ask(b, chromedp.Evaluate[int](`document.documentElement.scrollHeight`)) > highest {
		shot = chromedp.CaptureScreenshot()
	}
	png := ask(b, shot)
	b.shots++
	name := fmt.Sprintf("%s-%d-%s.png", b.name, b.shots, what)
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")), png, 0o644); err != nil {
		b.t.Error(err)
	}
}

// callback returns the address of /oauth/callback that the tab loaded last.
func (b *tab) callback() string {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.callbacks) == 0 {
		b.t.Fatalf("%s has not been at /oauth/callback", b.name)
	}
	return b.callbacks[len(b.callbacks)-1]
}

func command(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	return exec.CommandContext(t.Context(), name, args...).Output()
}
