package rotation

import "sync"

// kind is what a task asks for.
type kind int

const (
	reading kind = iota // of the store
	calling             // the keyring
	kinds
)

// turns has tasks done by workers who all stay with a kind until nothing of it is left. Each request wakes
// up the server that it is for: the same requests, mixed, took a tenth more processor time in all, and a
// keyring half as much again.
type turns struct {
	mu         sync.Mutex
	changed    sync.Cond // there is a task, or there will be none
	ready      [kinds][]func()
	turn       kind
	unfinished int // tasks ready or under way, and one while feed runs
}

// do has workers do the tasks that feed adds, and those that they add in turn.
func (t *turns) do(workers int, feed func() error) error {
	t.changed.L = &t.mu
	t.unfinished = 1
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for task := t.next(); task != nil; task = t.next() {
				task()
				t.finish()
			}
		})
	}
	err := feed()
	t.finish()
	working.Wait()
	return err
}

// add adds a task, and never waits.
func (t *turns) add(k kind, task func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready[k] = append(t.ready[k], task)
	t.unfinished++
	t.changed.Signal()
}

// next waits for a task, or returns nil if there will be none.
func (t *turns) next() func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.unfinished > 0 {
		for range kinds {
			if ready := t.ready[t.turn]; len(ready) > 0 {
				t.ready[t.turn] = ready[1:]
				return ready[0]
			}
			t.turn = (t.turn + 1) % kinds
		}
		t.changed.Wait()
	}
	return nil
}

func (t *turns) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unfinished--; t.unfinished == 0 {
		t.changed.Broadcast()
	}
}
