package dsqltx

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
)

// A BatchState says what became of a batch.
type BatchState int

const (
	BatchOut      BatchState = iota // not applied
	BatchIn                         // applied, once
	BatchUnknown                    // applied or not: the connection was lost while committing
	BatchRejected                   // not applied, and left out: see Writer.Reject
)

var stateNames = [...]string{"out", "in", "unknown", "rejected"}

func (s BatchState) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("BatchState(%d)", int(s))
	}
	return stateNames[s]
}

// A Batch is the rows From to To-1 of a Write.
type Batch struct {
	From, To int
	State    BatchState
	Err      error // why it is not in the table; nil for batches that Write did not begin
}

// A Report says which rows are in the table. As JSON it has the states with their ranges, such as
// {"in":[[0,2000]],"unknown":[[2000,3000]]}, and no errors.
type Report struct {
	// Batches are in order. Neighbours of the same state count as one, except unknown ones and those
	// with an Err.
	Batches []Batch
}

// Rows returns the rows whose batches are in state; rows are those that were given to Write. Rows
// that are BatchOut can be written again. For rows that are BatchUnknown, look into the table
// first.
func (r Report) Rows(rows [][]any, state BatchState) [][]any {
	var found [][]any
	for _, b := range r.Batches {
		if b.State == state {
			found = append(found, rows[b.From:b.To]...)
		}
	}
	return found
}

// Count returns how many rows are in state.
func (r Report) Count(state BatchState) int {
	n := 0
	for _, b := range r.Batches {
		if b.State == state {
			n += b.To - b.From
		}
	}
	return n
}

// set says that the rows of b are in its state, whatever was said of them before.
func (r *Report) set(b Batch) {
	i := sort.Search(len(r.Batches), func(i int) bool { return r.Batches[i].To > b.From })
	end := i
	var around []Batch
	for ; end < len(r.Batches) && r.Batches[end].From < b.To; end++ {
		if left := r.Batches[end]; left.From < b.From {
			left.To = b.From
			around = append(around, left)
		}
	}
	at := i + len(around)
	around = append(around, b)
	if end > i && r.Batches[end-1].To > b.To {
		right := r.Batches[end-1]
		right.From = b.To
		around = append(around, right)
	}
	r.Batches = slices.Replace(r.Batches, i, end, around...)
	r.merge(at + 1)
	r.merge(at)
}

// merge makes one batch of the one at i and the one before, if they count as one.
func (r *Report) merge(i int) {
	if i <= 0 || i >= len(r.Batches) {
		return
	}
	a, b := &r.Batches[i-1], r.Batches[i]
	if a.To == b.From && a.State == b.State && a.State != BatchUnknown && a.Err == nil && b.Err == nil {
		a.To = b.To
		r.Batches = slices.Delete(r.Batches, i, i+1)
	}
}

// end returns the number of the row behind the last batch.
func (r Report) end() int {
	if len(r.Batches) == 0 {
		return 0
	}
	return r.Batches[len(r.Batches)-1].To
}

// fillOut adds that those of the first n rows are out that no batch has.
func (r *Report) fillOut(n int) {
	end := 0
	for _, b := range append(slices.Clone(r.Batches), Batch{From: n}) {
		if end < b.From {
			r.set(Batch{From: end, To: b.From})
		}
		end = b.To
	}
}

// validate says what a report cannot be.
func (r Report) validate() error {
	end := 0
	for _, b := range r.Batches {
		switch {
		case b.From < 0 || b.From >= b.To:
			return fmt.Errorf("%d to %d is not a range of rows", b.From, b.To)
		case b.From < end:
			return fmt.Errorf("the ranges are not in order, or overlap, at row %d", b.From)
		case b.State < 0 || int(b.State) >= len(stateNames):
			return fmt.Errorf("%v of row %d is not a state", b.State, b.From)
		case b.State == BatchUnknown && b.To-b.From > maxTxRows:
			return fmt.Errorf("rows %d to %d are unknown, and are more than a transaction can have written", b.From, b.To-1)
		}
		end = b.To
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (r Report) MarshalJSON() ([]byte, error) {
	states := map[string][][2]int{}
	for _, b := range r.Batches {
		states[b.State.String()] = append(states[b.State.String()], [2]int{b.From, b.To})
	}
	return json.Marshal(states)
}

// UnmarshalJSON implements json.Unmarshaler. Ranges that cannot be are an error.
func (r *Report) UnmarshalJSON(text []byte) error {
	var states map[string][][]int
	if err := json.Unmarshal(text, &states); err != nil {
		return err
	}
	var read Report
	for name, ranges := range states {
		state := slices.Index(stateNames[:], name)
		if state < 0 {
			return fmt.Errorf("dsqltx: report: %q is not a state; there are %q", name, stateNames)
		}
		for _, pair := range ranges {
			if len(pair) != 2 {
				return errors.New("dsqltx: report: a range has two numbers, the first row and the one behind the last")
			}
			read.Batches = append(read.Batches, Batch{From: pair[0], To: pair[1], State: BatchState(state)})
		}
	}
	slices.SortFunc(read.Batches, func(a, b Batch) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	if err := read.validate(); err != nil {
		return fmt.Errorf("dsqltx: report: %w", err)
	}
	for i := len(read.Batches) - 1; i > 0; i-- {
		read.merge(i)
	}
	*r = read
	return nil
}
