package rowfile

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Files reads several files as the rows of one table. Set its fields, call Open, then range over
// Rows.
type Files struct {
	Names   []string  // "-" is Stdin
	Stdin   io.Reader // for "-"
	Format  Format    // "": by each name
	Columns []string  // nil: the first line of each file names them, and Open sets them

	// BadRow is called for each row that is no row, on the goroutine that ranges over Rows. An
	// error ends Rows.
	BadRow func(file string, e *RowError) error

	first  *openFile // that Open opened, and Rows has not read
	named  bool      // Columns are from the first file
	read   atomic.Int64
	mu     sync.Mutex // guards places
	places map[int]Place
}

// A Place is where a row begins.
type Place struct {
	File string
	Line int
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

type openFile struct {
	*Reader
	io.Closer
}

// countingReader counts what is read of a file, before it is unpacked.
type countingReader struct {
	io.ReadCloser
	n *atomic.Int64
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// Open opens the first file and finds out the columns. The caller has to range over Rows afterwards,
// or call Close.
func (f *Files) Open() (err error) {
	f.places = map[int]Place{}
	f.first, err = f.open(f.Names[0])
	return err
}

// Close closes what Open opened, if Rows did not.
func (f *Files) Close() {
	if f.first != nil {
		f.first.Close()
		f.first = nil
	}
}

// Size returns the bytes of all files, or 0 if that is not known.
func (f *Files) Size() (total int64) {
	for _, name := range f.Names {
		info, err := os.Stat(name)
		if name == "-" || err != nil || !info.Mode().IsRegular() {
			return 0
		}
		total += info.Size()
	}
	return total
}

// BytesRead returns how many bytes of the files were read.
func (f *Files) BytesRead() int64 { return f.read.Load() }

// open opens a file and reads its header.
func (f *Files) open(name string) (*openFile, error) {
	in := io.NopCloser(f.Stdin)
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in = file
	}
	format := f.Format
	if format == "" {
		format = FormatOf(name)
	}
	r, err := NewReader(countingReader{in, &f.read}, format)
	if err == nil && (f.Columns == nil || f.named) {
		err = f.readHeader(r)
	}
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.SetColumns(len(f.Columns))
	return &openFile{r, in}, nil
}

// readHeader reads the names of the columns, or checks that they are those of the file before.
func (f *Files) readHeader(r *Reader) error {
	values, _, err := r.Read()
	if err == io.EOF {
		return errors.New("it is empty; its first line should name the columns")
	}
	if err != nil {
		return fmt.Errorf("the line that names the columns: %w", err)
	}
	names := make([]string, len(values))
	for i, value := range values {
		text, _ := value.(string)
		if names[i] = strings.TrimSpace(text); names[i] == "" {
			return fmt.Errorf("column %d has no name in the first line; name it there, or all of them by --columns if that line is a row", i+1)
		}
	}
	if !f.named {
		f.Columns, f.named = names, true
		return nil
	}
	if !slices.Equal(names, f.Columns) {
		return fmt.Errorf("its first line names the columns %q, and that of %s names %q; load them one by one", names, f.Names[0], f.Columns)
	}
	return nil
}

// Rows yields the rows of all files. Forget their places when they are no longer needed.
func (f *Files) Rows() iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		number := 0
		for i, name := range f.Names {
			file := f.first
			if i > 0 || file == nil {
				var err error
				if file, err = f.open(name); err != nil {
					yield(nil, err)
					return
				}
			}
			f.first = nil
			again := f.rows(file, name, &number, yield)
			file.Close()
			if !again {
				return
			}
		}
	}
}

// rows yields the rows of a file, and returns false if no other should follow.
func (f *Files) rows(file *openFile, name string, number *int, yield func([]any, error) bool) bool {
	for {
		values, line, err := file.Read()
		var bad *RowError
		switch {
		case err == io.EOF:
			return true
		case errors.As(err, &bad):
			if err := f.BadRow(name, bad); err != nil {
				yield(nil, err)
				return false
			}
			continue
		case err != nil:
			yield(nil, fmt.Errorf("%s: %w", name, err))
			return false
		}
		f.mu.Lock()
		f.places[*number] = Place{name, line}
		f.mu.Unlock()
		*number++
		if !yield(values, nil) {
			return false
		}
	}
}

// Place returns where a row is in the files, unless it was forgotten.
func (f *Files) Place(number int) Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.places[number]
}

// Forget forgets where the rows from to to-1 are.
func (f *Files) Forget(from, to int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := from; i < to; i++ {
		delete(f.places, i)
	}
}
