package rotation

import "sync"

// kind is what a task asks for.
type kind int

const (
	readTask kind = iota // of the store
	callTask             // of the keyring
	kinds
)

// turns has tasks done by workers who stay with a kind while any task of it is ready: mixed, the same
// requests cost the keyring and the store more processor time. Whoever adds tasks must bound how many are
// ready, or the other kind waits for ever.
type turns struct {
	// mixed has them take the kinds in turn: those who wait for their share of a rate use up both
	// rates only if they do not wait for one after the other.
	mixed bool

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
				task := ready[0]
				ready[0] = nil // so that what it holds can be collected
				t.ready[t.turn] = ready[1:]
				if t.mixed {
					t.pass()
				}
				return task
			}
			t.pass()
		}
		t.changed.Wait()
	}
	return nil
}

// pass makes it the other kind's turn.
func (t *turns) pass() { t.turn = (t.turn + 1) % kinds }

func (t *turns) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unfinished--; t.unfinished == 0 {
		t.changed.Broadcast()
	}
}
