package testserver

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a goroutine remains after the tests, while the shared servers are still running.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
