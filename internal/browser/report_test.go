package browser_test

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// TestReportIsReadInABrowser opens the report of an incident, and what a patient is shown, in light and dark, on a screen, on a
// telephone and on paper.
func TestReportIsReadInABrowser(t *testing.T) {
	d := testdeployment.Servers(t, testserver.Dedicated())
	writer, err := vault.New(d.Keyring(testdeployment.Writer), d.Store)
	require.NoError(t, err)
	patient, keyID := d.Enrol(t)
	id, err := writer.Put(t.Context(), patient, strings.NewReader("video"), vault.Metadata{})
	require.NoError(t, err)
	hostile, err := d.Keyring(testdeployment.Granter).Issue(t.Context(), patient, keys.GrantOptions{
		TTL: time.Minute, Subject: "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">", Purpose: keys.Treatment,
	})
	require.NoError(t, err)
	server, err := vault.New(d.Keyring(testdeployment.Server), d.Store)
	require.NoError(t, err)
	recording, err := server.Open(t.Context(), hostile, id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	stranger, _ := d.Enrol(t)
	_, err = server.Open(t.Context(), d.Grant(t, stranger), id)
	require.ErrorIs(t, err, keys.ErrDenied)

	report, err := auditlog.Read(t.Context(), []auditlog.Source{
		{Name: "audit.log", Open: func() (io.ReadCloser, error) { return os.Open(d.Vault.AuditFile()) }},
	}, auditlog.Options{Mount: d.Place.Mount, Prefix: d.Place.Prefix})
	require.NoError(t, err)
	rows := 0
	for _, section := range report.Sections() {
		rows += section.Len
	}
	view := report.PatientView(keyID, auditlog.Names{})
	for _, shown := range []struct {
		name, title, item string
		write             func(io.Writer) error
		items             int
	}{
		{"report", "Report from the audit log of HashiCorp Vault", "tbody tr", report.WriteHTML, rows},
		{"patient", "Who has seen your recordings", "ol li", view.WriteHTML, 1},
	} {
		t.Run(shown.name, func(t *testing.T) {
			var text bytes.Buffer
			require.NoError(t, shown.write(&text))
			file := filepath.Join(t.TempDir(), shown.name+".html")
			require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
			tab := chromium(t)
			address := (&url.URL{Scheme: "file", Path: file}).String()
			colours := map[string]string{}
			for _, scheme := range []string{"light", "dark"} {
				_, err := chromedp.Call(tab.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				require.NoError(t, err)
				for _, width := range []int64{360, 1280} {
					tab.do(chromedp.EmulateViewport(width, 900), chromedp.Navigate(address))
					assert.Contains(t, evaluate[string](tab, `document.title`), shown.title)
					assert.Equal(t, shown.items, evaluate[int](tab, `document.querySelectorAll("`+shown.item+`").length`))
					assert.Zero(t, evaluate[int](tab, `document.querySelectorAll("script, img").length`), "a subject became markup")
					assert.Empty(t, evaluate[[]string](tab, poorContrast))
					assert.LessOrEqual(t, evaluate[int64](tab, `document.documentElement.scrollWidth`), width, "the page scrolls sideways")
					tab.screenshot(fmt.Sprintf("%s-%s-%d", t.Name(), scheme, width))
				}
				colours[scheme] = evaluate[string](tab, `getComputedStyle(document.body).backgroundColor`)
			}
			assert.NotEqual(t, colours["light"], colours["dark"])
			printed, err := chromedp.Call(tab.ctx, page.PrintToPDF, page.PrintToPDFParams{})
			require.NoError(t, err)
			assert.True(t, bytes.HasPrefix(printed.Data, []byte("%PDF-")))
		})
	}
}
