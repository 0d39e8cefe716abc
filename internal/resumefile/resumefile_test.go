package resumefile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
)

func TestSaveAndLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.json")
	s, err := Load(file)
	require.NoError(t, err)
	require.Zero(t, s)
	want := State{Table: "t", Columns: []string{"id"}, Sources: []string{"a.csv"}, BadRows: 2, Rows: dsqltx.Report{
		Batches: []dsqltx.Batch{{To: 5, State: dsqltx.BatchIn}, {From: 5, To: 9, State: dsqltx.BatchUnknown}}}}
	require.NoError(t, want.Save(file))
	require.NoError(t, want.Save(file))
	s, err = Load(file)
	require.NoError(t, err)
	require.Equal(t, want, s)
	require.NoError(t, s.CheckSame(want))
	for _, change := range []func(*State){
		func(s *State) { s.Table = "u" }, func(s *State) { s.Columns = nil }, func(s *State) { s.Sources = []string{"b.csv"} },
	} {
		other := want
		change(&other)
		require.Error(t, s.CheckSame(other))
	}
	require.NoError(t, os.WriteFile(file, []byte(`{"Table":"t"}`), 0o600))
	_, err = Load(file)
	require.ErrorContains(t, err, "t.json: not a resume file")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"Table":"t","Columns":["id"],"Sources":["a.csv"],"BadRows":1,"Rows":{"in":[[0,5]],"unknown":[[5,9]]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		require.NoError(t, err)
		same, err := Parse(again)
		require.NoError(t, err)
		require.Equal(t, s.Rows.Batches, same.Rows.Batches)
		require.NoError(t, same.CheckSame(s))
	})
}
