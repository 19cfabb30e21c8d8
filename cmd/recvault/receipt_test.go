package main

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/erasure"
)

func TestAnInterruptedConfirmKeepsItsProof(t *testing.T) {
	d := newDeployment(t)
	path := d.path("receipt.json")
	c := &cli{output: outputText, stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	begun := erasure.Beginning{
		KeyID: mustKeyID(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), PlanDigest: "d", Operator: "o", Time: time.Unix(1, 0).UTC(), Rewrapped: true,
	}
	for name, failure := range map[string]error{"nothing erased": os.ErrClosed, "something erased": erasure.ErrIncomplete} {
		err := c.confirm(path, erasure.Approval{}, func(a erasure.Approval) (erasure.Receipt, error) {
			assert.Nil(t, a.Earlier)
			require.NoError(t, a.Begin(begun))
			assert.Len(t, d.files(), 2, "there is room for the receipt")
			return erasure.Receipt{}, failure
		})
		assert.ErrorIs(t, err, failure)
		if name == "nothing erased" {
			assert.Empty(t, d.files())
			continue
		}
		assert.Equal(t, []string{"receipt.json"}, d.files())
		_, err = erasure.ParseReceipt([]byte(readFile(t, path)))
		assert.ErrorIs(t, err, erasure.ErrDamagedReceipt)
		require.NoError(t, checkReceipt(path))
		require.NoError(t, c.confirm(path, erasure.Approval{}, func(a erasure.Approval) (erasure.Receipt, error) {
			assert.Equal(t, &begun, a.Earlier)
			require.NoError(t, a.Begin(begun))
			return erasure.Receipt{KeyID: begun.KeyID, Operator: "the receipt"}, nil
		}))
		assert.Contains(t, readFile(t, path), "the receipt")
		assert.Equal(t, []string{"receipt.json"}, d.files())
		assert.ErrorIs(t, checkReceipt(path), os.ErrExist)
		require.NoError(t, os.Remove(path))
	}
}

func TestTwoConfirmsDoNotShareAReceiptFile(t *testing.T) {
	d := newDeployment(t)
	path := d.path("receipt.json")
	c := &cli{output: outputText, stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	begun := erasure.Beginning{KeyID: mustKeyID(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), Operator: "o", Time: time.Unix(1, 0).UTC()}
	second := func() error {
		return c.confirm(path, erasure.Approval{}, func(erasure.Approval) (erasure.Receipt, error) {
			assert.Fail(t, "the second confirm began")
			return erasure.Receipt{}, nil
		})
	}
	require.NoError(t, c.confirm(path, erasure.Approval{}, func(a erasure.Approval) (erasure.Receipt, error) {
		require.ErrorIs(t, second(), os.ErrExist, "before the first has begun")
		require.NoError(t, a.Begin(begun))
		require.ErrorIs(t, second(), os.ErrExist)
		return erasure.Receipt{KeyID: begun.KeyID, Operator: "the receipt"}, nil
	}))
	assert.Contains(t, readFile(t, path), "the receipt")
	require.ErrorIs(t, second(), os.ErrExist)
	assert.Equal(t, []string{"receipt.json"}, d.files())
}

// TestOnlyFilesOfConfirmAreReceipts: nothing else is removed, whatever happens.
func TestOnlyFilesOfConfirmAreReceipts(t *testing.T) {
	d := newDeployment(t)
	c := &cli{output: outputText, stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	empty := d.file("empty", nil)
	require.NoError(t, os.Symlink(empty, d.path("link")))
	for name, allowed := range map[string]bool{"empty": true, "link": false} {
		err := c.confirm(d.path(name), erasure.Approval{}, func(erasure.Approval) (erasure.Receipt, error) {
			assert.True(t, allowed)
			return erasure.Receipt{}, erasure.ErrPlanChanged
		})
		if allowed {
			require.ErrorIs(t, err, erasure.ErrPlanChanged)
		} else {
			require.ErrorIs(t, err, os.ErrExist)
		}
	}
	require.ErrorIs(t, checkReceipt("/dev/null"), os.ErrExist)
	assert.ElementsMatch(t, []string{"empty", "link"}, d.files())
}
