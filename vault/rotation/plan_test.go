package rotation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestForecastAddsTheTimesOfAllRequests(t *testing.T) {
	f := forecaster{Options{Concurrency: 2}, 4, 10 * time.Millisecond, 20 * time.Millisecond, time.Millisecond}
	forecast := f.forecast(Requests{Keyring: 100, Reads: 100, Writes: 10})
	assert.Equal(t, 575*time.Millisecond, forecast.Duration)
	assert.Contains(t, forecast.Basis, "2 requests at a time")
	forecast = f.forecast(Requests{Keyring: 1, Reads: 100, Writes: 100})
	assert.Equal(t, 305*time.Millisecond, forecast.Duration)
	assert.Contains(t, forecast.Basis, "a write taken for 5 reads")
	assert.Equal(t, 60*time.Millisecond, f.forecast(Requests{Keyring: 2, Lists: 5}).Duration)
	f.prefixes = 1
	assert.Equal(t, 100*time.Millisecond, f.forecast(Requests{Keyring: 2, Lists: 5}).Duration, "one list after the other")
	f.options.StorageRate = 10
	assert.Equal(t, time.Second, f.forecast(Requests{Lists: 5, Reads: 4, Writes: 1}).Duration)
}
