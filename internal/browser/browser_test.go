package browser_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"image"
	"image/png"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
)

// waitTimeout is how long a test waits for a condition.
const waitTimeout = 30 * time.Second

// tab is a window of a running Chromium. Its methods do what a person does.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// chromium starts a browser with an empty profile. The browser is closed when the test ends.
func chromium(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		const how = "chromium is missing: install the Debian package chromium, or run make browser"
		if os.Getenv("RECVAULT_SERVERS") == "require" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("mute-audio", true), chromedp.WindowSize(1280, 900))
	// t.Context would end before the cleanups.
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error("close chromium:", err)
		}
		cancel()
		stop()
	})
	first := &tab{t, ctx}
	first.do(chromedp.EmulateViewport(1280, 900))
	return first
}

// sameUser opens another window with the same cookies.
func (b *tab) sameUser() *tab { return b.open() }

// otherUser opens a window without cookies, as on another person's computer.
func (b *tab) otherUser() *tab { return b.open(chromedp.WithNewBrowserContext()) }

func (b *tab) open(options ...chromedp.ContextOption) *tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, options...)
	b.t.Cleanup(cancel)
	opened := &tab{b.t, ctx}
	opened.do(chromedp.EmulateViewport(1280, 900))
	return opened
}

// do executes actions. It has no deadline, because its first call starts the browser.
func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, steps...))
}

func (b *tab) visit(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
}

// follow clicks on a link or button that leads to the page with the given path, and waits for the page.
func (b *tab) follow(selector, path string) {
	b.t.Helper()
	b.click(selector)
	b.arrive(path)
}

// arrive waits until the page with the given path is loaded.
func (b *tab) arrive(path string) {
	b.t.Helper()
	b.wait(fmt.Sprintf(`location.pathname === %q && document.readyState === "complete"`, path))
}

func (b *tab) click(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitTimeout)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector))), "click on %s", selector)
}

// wait waits until a JavaScript expression, or the value of its promise, is true. Chromedp's own polling would
// compile the expression in the page, which the portal's content security policy forbids.
func (b *tab) wait(condition string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		holds, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`Promise.resolve(`+condition+`).then(Boolean)`, chromedp.EvalAwaitPromise))
		if err == nil && holds {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			b.screenshot("failed-" + b.t.Name())
			text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.querySelector("main").innerText.slice(0, 800)`))
			require.FailNow(b.t, "the wait timed out", "for %s (%v) on:\n%s", condition, err, text)
		}
	}
}

// evaluate returns the value of a JavaScript expression in the page. It waits for the value of a promise.
func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err, expression)
	return value
}

// text returns the visible text of an element, or "" if there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return evaluate[string](b, fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector))
}

// screenshot writes a screenshot of the window to screenshots/<name>.png and returns it.
func (b *tab) screenshot(name string) []byte {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.NoError(b.t, os.MkdirAll("screenshots", 0o755))
	file := filepath.Join("screenshots", strings.ReplaceAll(name, "/", "-")+".png")
	require.NoError(b.t, os.WriteFile(file, picture, 0o644))
	return picture
}

// frameAt seeks with the page's player and returns the picture at this time, in seconds. The time should be in
// the middle of a frame.
func (b *tab) frameAt(to float64) image.Image {
	b.t.Helper()
	encoded := evaluate[string](b, fmt.Sprintf(`(async (to) => {
		const player = document.querySelector("video");
		player.pause();
		const failed = new Promise((_, fail) => {
			const why = () => fail(new Error("player: " + player.error.message));
			if (player.error) why();
			player.addEventListener("error", why, {once: true});
		});
		const shown = new Promise((done) => {
			const look = (_, frame) => Math.abs(frame.mediaTime - to) < 1 / %[2]d ? done() : player.requestVideoFrameCallback(look);
			player.requestVideoFrameCallback(look);
		});
		const sought = new Promise((done) => player.addEventListener("seeked", done, {once: true}));
		player.currentTime = to;
		await Promise.race([failed, Promise.all([shown, sought])]);
		const canvas = document.createElement("canvas");
		canvas.width = player.videoWidth;
		canvas.height = player.videoHeight;
		canvas.getContext("2d").drawImage(player, 0, 0);
		return canvas.toDataURL("image/png");
	})(%[1]v)`, to, framesPerSecond))
	raw, ok := strings.CutPrefix(encoded, "data:image/png;base64,")
	require.True(b.t, ok)
	picture, err := png.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(raw)))
	require.NoError(b.t, err)
	return picture
}

// framesPerSecond is the frame rate of the sample.
const framesPerSecond = 12

// original opens a page that plays the unencrypted sample from a file server.
func (b *tab) original() *tab {
	b.t.Helper()
	dir := b.t.TempDir()
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, "original.webm"), sample.Video, 0o644))
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, "index.html"), []byte(`<!DOCTYPE html><video src="original.webm"></video>`), 0o644))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	b.t.Cleanup(server.Close)
	opened := b.sameUser()
	opened.visit(server.URL)
	opened.wait(`document.querySelector("video").readyState >= HTMLMediaElement.HAVE_METADATA`)
	return opened
}

// difference returns the mean difference of two pictures in a part of them, from 0 (equal) to 255.
func difference(a, b image.Image, part image.Rectangle) float64 {
	var sum float64
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			r1, g1, b1, _ := a.At(x, y).RGBA()
			r2, g2, b2, _ := b.At(x, y).RGBA()
			for _, pair := range [][2]uint32{{r1, r2}, {g1, g2}, {b1, b2}} {
				sum += max(float64(pair[0]), float64(pair[1])) - min(float64(pair[0]), float64(pair[1]))
			}
		}
	}
	return sum / 257 / 3 / float64(part.Dx()*part.Dy())
}

// stallingProxy is a proxy of a portal that stalls each recording after stallsAfter bytes, until repair is
// called. Then the stalled responses break off, and later ones are complete. Without it, the browser would
// buffer the whole sample, and its player would send no more requests.
type stallingProxy struct {
	url      string
	repaired chan struct{}
}

func startStallingProxy(t *testing.T, portal string) *stallingProxy {
	t.Helper()
	target, err := url.Parse(portal)
	require.NoError(t, err)
	p := &stallingProxy{repaired: make(chan struct{})}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the portal compares it with the request's origin
		},
		FlushInterval: -1,
		ModifyResponse: func(response *http.Response) error {
			if strings.HasPrefix(response.Request.URL.Path, "/recordings/") {
				response.Body = &stallingBody{response.Body, p, response.Request.Context(), stallsAfter}
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0), // no errors of closed players
	})
	t.Cleanup(proxy.Close)
	p.url = proxy.URL
	return p
}

func (p *stallingProxy) repair() { close(p.repaired) }

// stallsAfter is a quarter of the sample, enough for playback to start.
const stallsAfter = 192 << 10

// stallingBody is a body that stalls when left bytes have been read.
type stallingBody struct {
	io.ReadCloser
	proxy *stallingProxy
	ctx   context.Context
	left  int
}

func (b *stallingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		select {
		case <-b.proxy.repaired:
			return 0, io.ErrUnexpectedEOF
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	select {
	case <-b.proxy.repaired:
		return b.ReadCloser.Read(p)
	default:
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
