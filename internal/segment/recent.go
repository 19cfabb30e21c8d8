package segment

import "sync"

// recentSegments is how many segments a Reader keeps for random reads: 512 KiB.
const recentSegments = 8

// recent keeps the plaintext of the segments that random reads used last, because the next read is often
// near. It is safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	clock int64 // the number of uses so far
	slots [recentSegments]slot
	wiped bool // keeps nothing more
}

// slot holds the plaintext of one segment.
type slot struct {
	buffer *[Size]byte // nil if the slot is empty
	plain  []byte      // in buffer
	index  int64       // the segment's number
	used   int64       // the clock at its last use
}

// copy copies the plaintext of segment i, from offset on, to p. It returns the number of bytes copied, and
// reports whether the segment is kept.
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

// add keeps the plaintext of segment i, which lies in buffer, in place of the one that was used longest
// ago. It returns the buffer that is no longer needed, or nil.
func (c *recent) add(i int64, plain []byte, buffer *[Size]byte) *[Size]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wiped {
		return buffer
	}
	oldest := &c.slots[0]
	for n := range c.slots {
		s := &c.slots[n]
		if s.buffer != nil && s.index == i {
			return buffer // a concurrent read has added it
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

// wipe overwrites what is kept with zeroes, and keeps nothing from then on.
func (c *recent) wipe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wiped = true
	for n := range c.slots {
		if s := &c.slots[n]; s.buffer != nil {
			clear(s.buffer[:])
			*s = slot{}
		}
	}
}
