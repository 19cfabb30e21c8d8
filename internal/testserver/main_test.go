package testserver

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a goroutine is left after the tests, though the shared servers still run then.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
