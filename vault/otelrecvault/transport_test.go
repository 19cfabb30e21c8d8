package otelrecvault

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const keyID = "abcdefghijklmnopqrstuvwxyz234567"

func TestPathsOfVaultAreOfFewTemplates(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/recordings/decrypt/" + keyID + "-kek":                          "/v1/{mount}/decrypt/{key}",
		"/v1/clinic/a/encrypt/" + keyID + "-kek":                            "/v1/{mount}/encrypt/{key}",
		"/v1/keys/keys/" + keyID + "-kek/rotate":                            "/v1/{mount}/keys/{key}/rotate",
		"/v1/recordings/keys/erased-" + keyID + "-kek":                      "/v1/{mount}/keys/{key}",
		"/v1/recordings/hmac/pseudonym/sha2-256":                            "/v1/{mount}/hmac/{key}/sha2-256",
		"/v1/recordings/config/keys":                                        "/v1/{mount}/config/keys",
		"/v1/sys/mounts/recordings/tune":                                    "/v1/sys/mounts/{mount}/tune",
		"/v1/sys/leases/revoke-prefix/recordings/decrypt/" + keyID + "-kek": "/v1/sys/{path}",
		"/v1/identity/lookup/" + keyID:                                      "/v1/identity/{path}",
		"/v1/auth/token/create/recvault-grant":                              "/v1/auth/token/create/{role}",
		"/v1/auth/token/revoke-self":                                        "/v1/auth/token/revoke-self",
		"/v1/auth/token/" + keyID:                                           "/v1/auth/{path}",
		"/v1/auth/approle/login":                                            "/v1/auth/{mount}/login",
		"/v1/auth/userpass/login/" + keyID:                                  "/v1/auth/{path}",
		"/v1/recordings/decrypt/" + keyID + "-kek/" + keyID:                 "/v1/{path}",
		"/v1/" + keyID: "/v1/{path}",
		"/":            "/v1/{path}",
	} {
		t.Run(strings.ReplaceAll(path, "/", " "), func(t *testing.T) {
			template, redacted := vaultTemplate(path)
			assert.Equal(t, want, template)
			assert.NotContains(t, template+redacted, keyID)
		})
	}
}

func TestRequestsToS3AreNamedAsOperations(t *testing.T) {
	for _, test := range []struct{ request, source, operation, key string }{
		{"GET http://s3/bucket/recordings/a/media", "", "GetObject", "recordings/a/media"},
		{"GET http://bucket.s3/recordings/a/media", "", "GetObject", "recordings/a/media"},
		{"HEAD http://s3/bucket/a", "", "HeadObject", "a"},
		{"PUT http://s3/bucket/a", "", "PutObject", "a"},
		{"PUT http://s3/bucket/a", "/bucket/b", "CopyObject", "a"},
		{"PUT http://s3/bucket/a?partNumber=1&uploadId=x", "", "UploadPart", "a"},
		{"PUT http://s3/bucket/a?partNumber=1&uploadId=x", "/bucket/b", "UploadPartCopy", "a"},
		{"POST http://s3/bucket/a?uploads=", "", "CreateMultipartUpload", "a"},
		{"POST http://s3/bucket/a?uploadId=x", "", "CompleteMultipartUpload", "a"},
		{"DELETE http://s3/bucket/a?uploadId=x", "", "AbortMultipartUpload", "a"},
		{"DELETE http://s3/bucket/a", "", "DeleteObject", "a"},
		{"GET http://s3/bucket/a?uploadId=x", "", "ListParts", "a"},
		{"GET http://s3/bucket/?list-type=2&prefix=a", "", "ListObjectsV2", ""},
		{"GET http://s3/bucket/?uploads=", "", "ListMultipartUploads", ""},
		{"GET http://s3/bucket/?location=", "", "GetBucketLocation", ""},
		{"PATCH http://s3/bucket/a", "", "_OTHER", "a"},
		{"PUT http://169.254.169.254/latest/api/token", "", "_OTHER", ""},
	} {
		t.Run(strings.ReplaceAll(test.request, "/", " ")+test.source, func(t *testing.T) {
			method, url, _ := strings.Cut(test.request, " ")
			r, err := http.NewRequest(method, url, nil)
			require.NoError(t, err)
			if test.source != "" {
				r.Header.Set("X-Amz-Copy-Source", test.source)
			}
			operation, key := s3Operation(r, "bucket")
			assert.Equal(t, test.operation, operation)
			assert.Equal(t, test.key, key)
		})
	}
}
