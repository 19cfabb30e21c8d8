package events

import (
	"cmp"
	"slices"
)

// MaxRanges is how many Ranges an event has at most. If there would be more, the two that lie closest together are joined,
// and the event is Coarse. Bytes stays exact.
const MaxRanges = 64

// Deliver adds n bytes of plaintext from offset start on to Bytes and Ranges.
func (e *Event) Deliver(start, n int64) {
	if n > 0 {
		e.Bytes += n
		e.cover(Range{start, start + n})
	}
}

// cover adds a range to Ranges. Ranges that touch are one.
func (e *Event) cover(r Range) {
	if last := len(e.Ranges) - 1; last >= 0 && e.Ranges[last].Start <= r.Start && r.Start <= e.Ranges[last].End {
		e.Ranges[last].End = max(e.Ranges[last].End, r.End) // a sequential read
		return
	}
	from, _ := slices.BinarySearchFunc(e.Ranges, r.Start, func(have Range, start int64) int { return cmp.Compare(have.End, start) })
	to := from
	for ; to < len(e.Ranges) && e.Ranges[to].Start <= r.End; to++ {
		r = Range{min(r.Start, e.Ranges[to].Start), max(r.End, e.Ranges[to].End)}
	}
	e.Ranges = slices.Replace(e.Ranges, from, to, r)
	if len(e.Ranges) <= MaxRanges {
		return
	}
	closest := 1
	for i := range e.Ranges[1:] {
		if e.Ranges[i+1].Start-e.Ranges[i].End < e.Ranges[closest].Start-e.Ranges[closest-1].End {
			closest = i + 1
		}
	}
	e.Ranges[closest-1].End = e.Ranges[closest].End
	e.Ranges = slices.Delete(e.Ranges, closest, closest+1)
	e.Coarse = true
}

// addUp adds an event that is like this one and happened after it.
func (e *Event) addUp(other Event) {
	e.Time, e.Error = other.Time, other.Error
	e.Count += other.Count
	e.Bytes += other.Bytes
	e.Unwraps += other.Unwraps
	e.Entries += other.Entries
	e.Coarse = e.Coarse || other.Coarse
	for _, r := range other.Ranges {
		e.cover(r)
	}
	if other.Began.Before(e.Began) {
		e.Began = other.Began
	}
	if other.Ended.After(e.Ended) {
		e.Ended = other.Ended
	}
}
