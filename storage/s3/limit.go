package s3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/recvault/recvault/storage"
)

// Limits of what a server can make the client read into memory.
const (
	// A page of a listing. With 1,000 objects, it has up to 0.5 MiB if all names are short, and 4 MiB if
	// all have 1,024 bytes and are escaped.
	maxAnswer = 8 << 20
	// The XML tags of a page: about 20 for each object or upload. minio-go
	// takes up to 2 KiB of memory for one.
	maxTags = 200_000
	// An error's body. S3's have less than 1 KiB.
	maxErrorBody = 64 << 10
	// The headers of an answer.
	maxHeaders = 256 << 10
)

var (
	errLongAnswer = fmt.Errorf("%w: the server's answer is too long", storage.ErrUnavailable)
	errMalformed  = errors.New("the server's answer is malformed")
)

// limiter is a transport that limits the answers to all requests but those for an object's contents, which the
// caller reads piece by piece. It makes every redirect an error.
type limiter struct{ http.RoundTripper }

func (l limiter) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(request)
	switch {
	case err != nil:
		return nil, withoutToken(request, err)
	case response.StatusCode/100 != 2:
		response.Header.Del("Location") // nothing follows a redirect, which would send the request's token to another host
		// An error's body is cut without an error of its own: its status still shows what is wrong.
		response.Body = &limitedBody{ReadCloser: response.Body, left: maxErrorBody, tags: maxTags, err: io.EOF}
	case !wantsContents(request):
		response.Body = &limitedBody{ReadCloser: response.Body, left: maxAnswer, tags: maxTags, err: errLongAnswer}
	}
	return response, nil
}

// withoutToken returns err, or errMalformed if its text repeats the request's session token: net/http quotes answers
// that it cannot parse.
func withoutToken(request *http.Request, err error) error {
	token := request.Header.Get("X-Amz-Security-Token")
	if token != "" && strings.Contains(err.Error(), token) {
		return errMalformed
	}
	return err
}

// wantsContents reports whether a successful answer to the request has an object's contents, not XML.
func wantsContents(request *http.Request) bool {
	if request.Method != http.MethodGet {
		return false
	}
	for key := range request.URL.Query() {
		key = strings.ToLower(key)
		switch {
		case key == "versionid", key == "partnumber", strings.HasPrefix(key, "response-"), strings.HasPrefix(key, "x-amz-"):
		default:
			return false // the object's ACL or tags, or a list
		}
	}
	return true
}

// limitedBody is a body that ends with err after a number of bytes or XML tags.
type limitedBody struct {
	io.ReadCloser
	left int
	tags int
	err  error
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 || b.tags <= 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	b.tags -= bytes.Count(p[:n], []byte("<"))
	return n, err
}
