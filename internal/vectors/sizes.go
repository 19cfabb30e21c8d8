package main

import "fmt"

func sizeTests() []*test {
	e := newWorkedExample()
	r := &recording{
		keys: e.keys, grant: &grant{e.keys.keyID}, wrapped: e.wrapped, keyring: answers(e.keys, e.wrapped), header: e.header,
		media: e.media(), plain: []byte(e.plain), metadata: padded(e.metadata), nonce: e.nonce,
	}
	tests := []*test{r.stored("the worked example", flags("WorkedExample"),
		r.stat(), r.open(), r.slice(0, 15), r.slice(2, 12), r.slice(14, 1), r.slice(14, 2))}
	const second, third = firstSize + fullSize, firstSize + 2*fullSize
	for _, size := range []int{
		0, 1, 16, firstSize - 1, firstSize, firstSize + 1, second - 1, second, second + 1, third - 1, third, third + 1,
	} {
		r := newRecording(fmt.Sprintf("size %d", size), size)
		operations := []operation{
			r.stat(), r.open(), r.slice(0, size), r.slice(0, 0),
			r.slice(size, 1), r.slice(size+1, 1), r.slice(size+10*fullSize, 1), r.slice(1<<52, 1),
		}
		if size > 0 {
			operations = append(operations, r.slice(0, 1), r.slice(size-1, 1), r.slice(size-1, 2), r.slice(size/2, size))
		}
		for _, start := range []int{firstSize, second, third} { // of segments 1, 2 and 3
			if start < size {
				operations = append(operations, r.slice(start-1, 1), r.slice(start, 1), r.slice(start-1, 2))
			}
		}
		if size > second {
			operations = append(operations, r.slice(firstSize-1, fullSize+2))
		}
		tests = append(tests, r.stored(fmt.Sprintf("a plaintext of %d bytes", size), flags("Size", "Range"), operations...))
	}
	return tests
}
