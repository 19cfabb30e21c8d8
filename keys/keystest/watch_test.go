package keystest

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSecretsInErrorsAreFound(t *testing.T) {
	const secret = "Émile, 943 476 5919\n"
	for name, form := range map[string]string{
		"unchanged":       secret,
		"quoted":          fmt.Sprintf("%q", secret),
		"hex":             hex.EncodeToString([]byte(secret)),
		"base64":          base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 for URLs": base64.URLEncoding.EncodeToString([]byte(secret)),
		"in a path":       url.PathEscape(secret),
		"in a query":      url.Values{"patient": {secret}}.Encode(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch()
			w.secret("patient identifier", []byte(secret))
			_ = w.note(errors.New("patient is not enrolled"))
			_ = w.note(nil)
			assert.Empty(t, w.leaks())
			_ = w.note(fmt.Errorf("wrap: %w", errors.New("no key for "+form+" here")))
			assert.Len(t, w.leaks(), 1)
		})
	}
}
