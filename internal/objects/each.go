package objects

import (
	"cmp"
	"context"
	"iter"

	"golang.org/x/sync/errgroup"
)

// Each calls work for every item, for up to concurrency of them at a time. It stops when there are no more items,
// when an item or a call is an error, or when the context ends, and returns the first error. A call that fails ends
// the context of the others. After an item that is an error, they run to their end. When Each returns, no call is
// running.
func Each[T any](ctx context.Context, items iter.Seq2[T, error], concurrency int, work func(context.Context, T) error) error {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for item, err := range items {
		if working.Err() != nil {
			break
		}
		if err != nil {
			_ = group.Wait() // the item's error came first
			return err
		}
		group.Go(func() error { return work(working, item) })
	}
	return cmp.Or(group.Wait(), ctx.Err())
}
