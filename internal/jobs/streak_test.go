package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestStreakEndsAJobAfterTenFailures(t *testing.T) {
	down, other := errors.New("down"), errors.New("other")
	var s Streak
	for range maxFailures - 1 {
		assert.False(t, s.Failed(down, down))
	}
	assert.Equal(t, down, s.Err(), "nothing has worked")
	assert.False(t, s.Failed(context.Canceled, down), "says nothing")
	assert.True(t, s.Failed(down, down))
	assert.False(t, s.Failed(other, down), "is about one patient")
	assert.NoError(t, s.Err())
	assert.False(t, s.Failed(down, down), "counts from the start")
	assert.NoError(t, s.Err())
}
