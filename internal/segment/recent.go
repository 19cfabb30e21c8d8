package segment

import "sync"

// recentSegments is how many segments that random reads have opened are kept: 512 KiB.
const recentSegments = 8

// recent keeps the plaintext of the segments that were last used by random reads, because the next
// read is often near.
type recent struct {
	mu    sync.Mutex
	clock int64
	slots [recentSegments]slot
}

type slot struct {
	buffer *[Size]byte // nil if the slot is empty
	plain  []byte      // in buffer
	index  int64
	used   int64
}

// copy copies from segment i, if it is kept, what lies at offset from its start. It tells how many
// bytes it copied, and whether the segment is kept.
func (c *recent) copy(p []byte, i, offset int64) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.slots {
		if s := &c.slots[n]; s.buffer != nil && s.index == i {
			c.clock++
			s.used = c.clock
			return copy(p, s.plain[offset:]), true
		}
	}
	return 0, false
}

// add keeps the plaintext of segment i, which lies in buffer, and returns the buffer that it no longer
// needs, or nil.
func (c *recent) add(i int64, plain []byte, buffer *[Size]byte) *[Size]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	oldest := &c.slots[0]
	for n := range c.slots {
		s := &c.slots[n]
		if s.buffer != nil && s.index == i {
			return buffer // a read beside this one was faster
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	c.clock++
	unused := oldest.buffer
	*oldest = slot{buffer, plain, i, c.clock}
	return unused
}
