package objects

import (
	"cmp"
	"context"
	"iter"

	"golang.org/x/sync/errgroup"
)

// Each calls work for every item, for up to concurrency of them at a time, until there are no more, an item
// or a call is an error, or the context ends. It returns the first error. When it returns, no call is running.
func Each[T any](ctx context.Context, items iter.Seq2[T, error], concurrency int, work func(context.Context, T) error) error {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for item, err := range items {
		if err = cmp.Or(err, working.Err()); err != nil {
			return cmp.Or(group.Wait(), err)
		}
		group.Go(func() error { return work(working, item) })
	}
	return cmp.Or(group.Wait(), ctx.Err())
}
