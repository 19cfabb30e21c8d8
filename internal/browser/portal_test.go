package browser_test

import (
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
)

const (
	amina    = `button[value="P-1042"]` // on the sign-in page
	drNovak  = `button[value="dr-novak"]`
	security = `button[value="security-desk"]`

	ready = `document.querySelector("video")?.readyState >= HTMLMediaElement.HAVE_METADATA`
)

// timeCode is the part of the sample's pictures that shows the time.
var timeCode = image.Rect(20, 20, 300, 46)

func TestRecordingPlaysAndSeeksLikeOriginal(t *testing.T) {
	onEachDeployment(t, func(t *testing.T, environment []string) {
		portal := startPortal(t, environment)
		b := chromium(t)
		b.visit(portal)
		b.screenshot(t.Name() + "-1-sign-in")
		b.follow(amina, "/consultations")
		assert.Contains(t, b.text("main"), "Asthma review")
		assert.Contains(t, b.text("main"), "Inhaler technique")
		assert.NotContains(t, b.text("main"), "knee surgery", "the recording of another patient")
		b.screenshot(t.Name() + "-2-consultations")

		b.click(`.recordings a`)
		b.wait(ready)
		assert.InDelta(t, sample.Duration.Seconds(), evaluate[float64](b, `player.duration`), 0.1)
		b.click("#player") // starts the player
		b.wait(`!player.paused && player.currentTime > 1`)
		b.screenshot(t.Name() + "-3-playing")

		original := b.original()
		half := 0.5 / framesPerSecond
		shown := map[float64]image.Image{}
		for _, second := range []float64{20, 38.5, 5} { // the middle, near the end, and back
			at := second + half
			shown[second] = b.frameAt(at)
			want := original.frameAt(at)
			assert.Equal(t, want.Bounds(), shown[second].Bounds())
			assert.Zero(t, difference(want, shown[second], timeCode), "the time code at %v s", second)
			assert.Zero(t, difference(want, shown[second], want.Bounds()), "the picture at %v s", second)
			b.screenshot(fmt.Sprintf("%s-4-at-%vs", t.Name(), second))
		}
		assert.Greater(t, difference(shown[20], shown[38.5], timeCode), 5.0, "different time codes must differ visibly")
		assert.Greater(t, difference(shown[20], shown[5], timeCode), 5.0)
		b.click("#player")
		b.wait(`!player.paused && player.currentTime > 6`)
		assert.Empty(t, b.text("#outcome"))
		assert.Contains(t, b.text("#events"), "Nothing to report")
	})
}

func TestLeakedRecordingFailsAndAlertsDesk(t *testing.T) {
	onEachDeployment(t, func(t *testing.T, environment []string) {
		portal := startPortal(t, environment)
		b := chromium(t)
		desk := b.otherUser()
		desk.visit(portal)
		desk.follow(security, "/security")
		assert.Contains(t, desk.text("#events"), "Nothing to report")

		b.visit(portal)
		b.follow(amina, "/consultations")
		b.click("#bug")
		b.wait(`document.querySelector("#leak") && document.readyState === "complete"`)
		assert.Contains(t, b.text("main"), "Asthma review", "the patient's own recordings are still listed")
		assert.Equal(t, 7, evaluate[int](b, `document.querySelectorAll(".sealed").length`), "the others belong to other patients")
		assert.Contains(t, b.text("#leak"), "7 of these are not yours")
		assert.NotContains(t, b.text("main"), "knee surgery", "titles are sealed")
		// The listing itself requested recordings of other patients.
		desk.wait(`document.querySelectorAll("#events .alert").length === 7`)
		b.screenshot(t.Name() + "-1-listing")

		const leaked = `document.querySelector(".sealed").dataset.recording`
		id := evaluate[string](b, leaked)
		alert := fmt.Sprintf(`document.querySelector('#events .alert[data-recording=%q]')`, id)
		before := attempts(desk, alert)
		// The desk's page measures the delay until it shows the next attempt, from the attempt's time in the vault.
		require.Equal(t, "watching", evaluate[string](desk, fmt.Sprintf(`(() => {
			const watched = new MutationObserver(() => {
				const alert = %s;
				if (window.delay || !(Number(alert?.querySelector(".attempts").textContent) > %d)) return;
				window.delay = Date.now() - Date.parse(alert.querySelector("time").dateTime);
			});
			watched.observe(document.getElementById("events"), {childList: true});
			return "watching";
		})()`, alert, before)))
		b.follow(`.sealed a`, "/consultations/"+id)
		b.wait(`player.error`)
		assert.Equal(t, "4", evaluate[string](b, `String(player.error.code)`), "MEDIA_ERR_SRC_NOT_SUPPORTED")
		assert.Equal(t, 0, evaluate[int](b, `player.getVideoPlaybackQuality().totalVideoFrames`))
		assert.Equal(t, 0, evaluate[int](b, `player.buffered.length`))
		assert.Equal(t, "true", evaluate[string](b, `player.play().then(() => "false", () => "true")`), "play() must fail")
		assert.Contains(t, b.text("#outcome"), "The key was refused, not the URL")
		assert.Contains(t, b.text("#outcome"), "Nothing was decrypted")

		desk.wait(`window.delay !== undefined`)
		// The vault reports a new event at once, and a repeated one within a second. The browser adds the rest.
		delay := evaluate[float64](desk, `window.delay`)
		t.Logf("from the attempt to the screen of the security desk: %v ms", delay)
		assert.Less(t, delay, 1500.0)
		b.wait(fmt.Sprintf(`Number(%s?.querySelector(".attempts").textContent) > %d`, alert, before))
		line := b.text(fmt.Sprintf(`#events .alert[data-recording=%q]`, id))
		assert.Contains(t, line, "another patient's recording")
		assert.Contains(t, line, "P-1042")
		assert.Contains(t, line, evaluate[string](b, `document.querySelector("#outcome dd code").textContent`), "the account of the grant")
		b.do(chromedp.EmulateViewport(1280, 1120))
		picture := b.screenshot(t.Name() + "-2-refused")
		desk.screenshot(t.Name() + "-3-security-desk")
		if *update {
			require.NoError(t, os.WriteFile(filepath.Join("..", "..", "examples", "portal", "screenshot.png"), picture, 0o644))
		}

		b.click("#bug")
		b.wait(`location.pathname === "/consultations" && document.readyState === "complete" && !document.querySelector(".sealed")`)
		assert.Equal(t, 3, evaluate[int](b, `document.querySelectorAll(".recordings li").length`), "with the bug fixed, only the patient's own")
	})
}

// attempts returns the number of attempts that an alert shows.
func attempts(b *tab, alert string) int {
	b.t.Helper()
	n, err := strconv.Atoi(evaluate[string](b, alert+`.querySelector(".attempts").textContent`))
	require.NoError(b.t, err)
	return n
}

// requestAmina signs in as a clinician and requests access to Amina, a patient in the clinician's care.
func requestAmina(b *tab, portal string) {
	b.t.Helper()
	b.visit(portal)
	b.follow(drNovak, "/patients")
	b.do(chromedp.SetValue(chromedp.CSS("#patient"), "P-1042"))
	b.follow(`form[action="/access"] button`, "/consultations")
	assert.Contains(b.t, b.text("h1"), "Amina Rahman")
}

func TestEndedAccessStopsNextSeek(t *testing.T) {
	const there = 36 + 0.5/framesPerSecond
	// play starts a recording and returns while it plays, before the browser has buffered the whole of it.
	play := func(t *testing.T, proxy *stallingProxy) *tab {
		b := chromium(t)
		requestAmina(b, proxy.url)
		b.click(`.recordings a`)
		b.wait(ready)
		b.click("#player")
		b.wait(`!player.paused && player.currentTime > 0.5`)
		require.False(t, evaluate[bool](b, fmt.Sprintf(`Array.from({length: player.buffered.length}, (_, i) => i)
			.some((i) => player.buffered.start(i) <= %[1]v && %[1]v <= player.buffered.end(i))`, there)), "the target of the seek must not be buffered")
		return b
	}
	onEachDeployment(t, func(t *testing.T, environment []string) {
		portal := startPortal(t, environment)

		// The control: with the access still valid, the same seek succeeds.
		proxy := startStallingProxy(t, portal)
		b := play(t, proxy)
		proxy.repair()
		b.frameAt(there)
		b.follow(`form[action="/access/end"] button`, "/patients")

		proxy = startStallingProxy(t, portal)
		b = play(t, proxy)
		b.screenshot(t.Name() + "-1-playing")
		other := b.sameUser()
		other.visit(proxy.url + "/patients")
		other.follow(`form[action="/access/end"] button`, "/patients")
		other.wait(fmt.Sprintf(`fetch(%q, {headers: {Range: "bytes=0-0"}}).then((answer) => answer.status === 401)`,
			evaluate[string](b, `player.src`)))
		evaluate[bool](b, fmt.Sprintf(`(player.currentTime = %v, true)`, there))
		proxy.repair()
		b.wait(`player.error`)
		b.wait(`document.querySelector("#outcome h2")?.textContent === "Your access has ended"`)
		b.wait(`document.querySelector('#events .alert[data-kind="refused"]')`)
		b.screenshot(t.Name() + "-2-refused")
	})
}

func TestExpiredAccessEndsVisibly(t *testing.T) {
	onEachDeployment(t, func(t *testing.T, environment []string) {
		portal := startPortal(t, environment, "-access", "8s")
		b := chromium(t)
		requestAmina(b, portal)
		b.click(`.recordings a`)
		b.wait(ready)
		assert.Regexp(t, `^0:0[1-8]$`, b.text(".left"))
		b.click("#player")
		b.wait(`player.currentTime > 0.5`)
		b.screenshot(t.Name() + "-1-running-down")
		b.wait(`!document.getElementById("over").hidden`)
		assert.False(t, evaluate[bool](b, `document.querySelector(".access").checkVisibility()`), "an expired access cannot be ended")
		assert.Equal(t, "false", evaluate[string](b, `String(player.hasAttribute("src"))`), "the player is closed")
		b.screenshot(t.Name() + "-2-over")

		// The page ends the access by its own clock, which may be ahead of the vault's.
		b.wait(`fetch(location.href).then((answer) => answer.status === 403)`)
		b.click("#over a")
		b.wait(`document.querySelector("#outcome h2")?.textContent === "Your access has ended"`)
		b.wait(`player.error`)
		assert.Equal(t, 0, evaluate[int](b, `player.buffered.length`))
		b.wait(`document.querySelector('#events .alert[data-kind="refused"]')`)
		b.screenshot(t.Name() + "-3-refused")
	})
}

func TestClinicianBreaksGlassWithReason(t *testing.T) {
	portal := startPortal(t, nil)
	b := chromium(t)
	b.visit(portal)
	b.follow(drNovak, "/patients")
	b.do(chromedp.SetValue(chromedp.CSS("#patient"), "P-1305"))
	b.click(`form[action="/access"] button`)
	b.wait(`document.querySelector("#problem")?.textContent.includes("not in your care")`)
	b.click(`input[value="BTG"]`)
	b.do(chromedp.SendKeys(chromedp.CSS("#reason"), "Found unconscious, brought in by ambulance"))
	b.screenshot(t.Name() + "-1-form")
	b.follow(`form[action="/access"] button`, "/consultations")
	assert.Contains(t, b.text("main"), "Counselling session 5")
	assert.Contains(t, b.text(".access"), "BTG")
	b.screenshot(t.Name() + "-2-consultations")

	desk := b.otherUser()
	desk.visit(portal)
	desk.follow(security, "/security")
	assert.Contains(t, desk.text("table"), "Found unconscious")
	assert.Contains(t, desk.text("table"), "dr-novak")
	desk.screenshot(t.Name() + "-3-register")
}

func TestIncidentIsReportedToDeskAndPatients(t *testing.T) {
	test := func(t *testing.T, environment []string, arguments ...string) {
		portal := startPortal(t, environment, arguments...)
		b := chromium(t)
		requestAmina(b, portal)
		b.click(`.recordings a`)
		b.wait(ready)
		b.follow("#bug", "/patients")
		b.visit(portal + "/consultations")
		b.click(`.sealed a`)
		b.wait(`document.querySelector("#outcome h2") && player.error`)

		desk := b.otherUser()
		desk.visit(portal)
		desk.follow(security, "/security")
		desk.wait(`document.querySelectorAll("#events .alert").length === 7`)
		desk.follow(`#events .alert a[href="/security/report?subject=dr-novak"]`, "/security/report")
		effects := evaluate[[]string](desk, `Array.from(document.querySelectorAll("#patients tbody tr"), (row) => row.cells[1].innerText)`)
		assert.Len(t, effects, 4, "all patients, of whom only one's content was disclosed")
		assert.Equal(t, "content was disclosed", effects[0])
		for _, effect := range effects[1:] {
			assert.Equal(t, "nothing was disclosed", effect)
		}
		assert.Contains(t, desk.text("#incidents tbody"), "wrong_patient")
		assert.NotEqual(t, "0px", evaluate[string](desk, `getComputedStyle(document.querySelector(".verdict")).borderRadius`), "the page has its style")
		desk.screenshot(t.Name() + "-1-report")

		patient := b.otherUser()
		patient.visit(portal)
		patient.follow(amina, "/consultations")
		patient.follow(`nav a[href="/accesses"]`, "/accesses")
		assert.Contains(t, patient.text("#others"), "Dr Helen Novak")
		assert.Contains(t, patient.text("#others"), "Asthma review: played")
		patient.screenshot(t.Name() + "-2-patient")
		patient.follow(`form[action="/logout"] button`, "/")
		patient.follow(`button[value="P-1305"]`, "/consultations")
		patient.follow(`nav a[href="/accesses"]`, "/accesses")
		assert.NotContains(t, patient.text("main"), "Novak")
		assert.Contains(t, patient.text("#attempts"), "refused. Nothing was shown.")
	}
	t.Run("embedded", func(t *testing.T) { test(t, nil) })
	t.Run("servers", func(t *testing.T) {
		vault, environment := onServers(t)
		test(t, environment, "-audit", vault.AuditFile())
	})
}

// Every control can be reached and used with the keyboard alone.
func TestPortalWorksWithKeyboard(t *testing.T) {
	portal := startPortal(t, nil)
	b := chromium(t)
	b.visit(portal)
	b.tabTo(amina)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.arrive("/consultations")
	b.do(chromedp.KeyEvent(kb.Tab))
	assert.Equal(t, "#main", evaluate[string](b, `document.activeElement.getAttribute("href")`), "the first link leads to the content")
	b.tabTo(`.recordings a`)
	assert.NotEqual(t, "none", evaluate[string](b, `getComputedStyle(document.activeElement).outlineStyle`), "the focus is visible")
	b.screenshot(t.Name() + "-1-focus")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.wait(ready)
	b.tabTo(`#player`)
	b.do(chromedp.KeyEvent(" "))
	b.wait(`!player.paused && player.currentTime > 0.5`)
	b.tabTo(`#bug`)
	b.do(chromedp.KeyEvent(" "))
	b.wait(`document.querySelector("#leak")`)
}

// tabTo presses the tab key until an element has the focus, at most 100 times.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 100 {
		b.do(chromedp.KeyEvent(kb.Tab))
		if evaluate[bool](b, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			return
		}
	}
	require.FailNow(b.t, "cannot be reached with the tab key", selector)
}

// poorContrast is a JavaScript expression that lists a page's accessibility faults: texts with a contrast below
// 4.5 to 1, or below 3 to 1 if they are large (WCAG 2.2, 1.4.3), form fields without a label, and a number of h1
// elements other than one.
const poorContrast = `(() => {
	const luminance = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
		.reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
	const colour = (text) => text.match(/[\d.]+/g).map(Number);
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const [r, g, b, a = 1] = colour(getComputedStyle(e).backgroundColor);
			if (a === 1) return [r, g, b];
		}
		return [255, 255, 255];
	};
	const poor = [];
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.textContent.trim() || !e.checkVisibility()) continue;
		const style = getComputedStyle(e);
		const size = parseFloat(style.fontSize);
		const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
		const [a, b] = [luminance(colour(style.color)), luminance(behind(e))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < (large ? 3 : 4.5)) poor.push(ratio.toFixed(2) + ": " + texts.currentNode.textContent.trim());
	}
	for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
		if (!field.labels.length) poor.push("no label: " + field.outerHTML);
	}
	if (document.querySelectorAll("h1").length !== 1) poor.push("not one h1");
	return poor;
})()`

func TestPagesAreReadableInEachSchemeAndWidth(t *testing.T) {
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			portal := startPortal(t, nil)
			b := chromium(t)
			look := func(name string) {
				t.Helper()
				for _, width := range []int64{360, 1280} {
					b.do(chromedp.EmulateViewport(width, 900))
					assert.Empty(t, evaluate[[]string](b, poorContrast), name)
					assert.LessOrEqual(t, evaluate[int64](b, `document.documentElement.scrollWidth`), width, "%s scrolls sideways", name)
					b.screenshot(fmt.Sprintf("%s-%s-%d", t.Name(), name, width))
				}
			}
			_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			require.NoError(t, err)
			b.visit(portal)
			look("sign-in")
			b.follow(amina, "/consultations")
			look("consultations")
			b.follow(`nav a[href="/accesses"]`, "/accesses")
			b.click("summary")
			look("accesses")
			b.visit(portal + "/consultations")
			b.click("#bug")
			b.wait(`document.querySelector("#leak") && document.querySelectorAll("#events .alert").length === 7`)
			look("leaking")
			b.click(`.sealed a`)
			b.wait(`document.querySelector("#outcome h2") && player.error`)
			look("refused")
			b.follow(`form[action="/logout"] button`, "/")
			requestAmina(b, portal)
			look("clinician")
			b.visit(portal + "/patients")
			look("asking")
			b.follow(`form[action="/logout"] button`, "/")
			b.follow(security, "/security")
			look("security-desk")
			b.follow(`a[href="/security/report"]`, "/security/report")
			look("report")
			b.visit(portal + "/consultations/none")
			look("not-there")
		})
	}
}
