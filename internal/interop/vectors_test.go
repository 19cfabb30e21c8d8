package interop_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/interop/peer"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// vector is what a Tink needs of a test in docs/vectors, and the outcomes that are expected of a reader of the format.
type vector struct {
	Number  int    `json:"tcId"`
	Comment string `json:"comment"`
	ID      string `json:"id"`
	Keyring []struct {
		Context string `json:"context"`
		Key     string `json:"key"`
	} `json:"keyring"`
	Media *struct {
		Parts []struct {
			Hex   string `json:"hex"`
			Times *int   `json:"times"`
		} `json:"parts"`
	} `json:"media"`
	Operations []struct {
		Op        string `json:"op"`
		Class     string `json:"class"`
		Plaintext struct {
			Length int    `json:"length"`
			SHA256 string `json:"sha256"`
		} `json:"plaintext"`
	} `json:"operations"`
}

// The media of these vectors is whole: what was altered is in the envelope, of which a Tink knows nothing, or it is other
// media under the same key. So the Tinks open it.
var openedByBoth = []string{
	"media: a media under the same key with another salt",
	"media: media_header has another salt",
}

// These are cut where the old Tink does not notice it.
var openedByTheOldTink = []string{
	"media: cut one byte after segment 0",
	"media: cut one byte after segment 1",
}

func TestTinksAgreeWithTheVectors(t *testing.T) {
	text, err := os.ReadFile("../../docs/vectors/recording_v1_test.json")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Comment string   `json:"comment"`
			Tests   []vector `json:"tests"`
		} `json:"testGroups"`
	}
	require.NoError(t, json.Unmarshal(text, &file))
	tink1, tink2 := startTink(t, "tink1"), startTink(t, "tink2")
	var opened, refused int
	var byBoth, byOld []string
	for _, group := range file.Groups {
		for _, v := range group.Tests {
			for _, o := range v.Operations {
				if o.Op != "open" || o.Class != "ok" && group.Comment != "Media" {
					continue
				}
				job := v.job(t)
				first, err1 := tink1.do(t, job)
				second, err2 := tink2.do(t, job)
				if o.Class == "ok" {
					require.NoError(t, err1, v.Comment)
					require.NoError(t, err2, v.Comment)
					require.Len(t, first, o.Plaintext.Length, v.Comment)
					sum := sha256.Sum256(first)
					require.Equal(t, o.Plaintext.SHA256, hex.EncodeToString(sum[:]), v.Comment)
					require.True(t, bytes.Equal(first, second), v.Comment)
					opened++
					continue
				}
				switch {
				case err1 == nil && err2 == nil:
					byBoth = append(byBoth, v.Comment)
				case err1 == nil:
					byOld = append(byOld, v.Comment)
				case err2 == nil:
					assert.Fail(t, "tink v2 opens it, and v1.7.0 does not", v.Comment)
				default:
					refused++
				}
			}
		}
	}
	assert.Equal(t, openedByBoth, byBoth)
	assert.Equal(t, openedByTheOldTink, byOld)
	assert.NotZero(t, opened)
	assert.NotZero(t, refused)
	counts = append(counts, fmt.Sprintf("both Tinks open %d vectors as expected and refuse %d", opened, refused))
}

// job returns the job of reading the vector's media.
func (v vector) job(t *testing.T) peer.Job {
	t.Helper()
	id, err := vault.ParseID(v.ID)
	require.NoError(t, err, v.Comment)
	job := peer.Job{AssociatedData: associatedData(id), Seed: uint64(v.Number)}
	for _, answer := range v.Keyring {
		if strings.HasPrefix(answer.Context, "recvault/v1/"+id.KeyID().String()+"/") {
			secret, err := hex.DecodeString(answer.Key)
			require.NoError(t, err, v.Comment)
			key, err := keys.KeyFromBytes(secret)
			require.NoError(t, err, v.Comment)
			job.Keyset = keysetOf(t, key)
			break
		}
	}
	require.NotNil(t, job.Keyset, v.Comment)
	if v.Media == nil {
		return job
	}
	for _, part := range v.Media.Parts {
		data, err := hex.DecodeString(part.Hex)
		require.NoError(t, err, v.Comment)
		times := 1
		if part.Times != nil {
			times = *part.Times
		}
		job.Data = append(job.Data, bytes.Repeat(data, times)...)
	}
	return job
}
