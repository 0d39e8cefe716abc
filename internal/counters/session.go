package counters

import (
	"github.com/jackc/pgx/v5/pgproto3"
)

// session serves one connection.
type session struct {
	server   *Server
	conn     *conn
	backend  *pgproto3.Backend
	prepared map[string]*statement
	portal   portal
	tx       *tx  // nil outside of a transaction
	failed   bool // the transaction is
	skipping bool // until Sync, after an error
	sql      string
	messages int // of the client's, since the login
}

type portal struct {
	statement *statement
	params    [][]byte
	formats   []int16
	results   []int16
}

func (s *session) serve() {
	defer s.conn.Close()
	if _, err := s.backend.ReceiveStartupMessage(); err != nil {
		return
	}
	s.backend.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{"server_version": "16.15", "client_encoding": "UTF8", "standard_conforming_strings": "on"} {
		s.backend.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	s.backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	s.backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if s.backend.Flush() != nil {
		return
	}
	for {
		message, err := s.backend.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(*pgproto3.Terminate); ok {
			return
		}
		s.messages++
		fault := s.server.fault(s.event(message))
		if fault.Cut == CutBefore {
			s.conn.reset()
			return
		}
		s.handle(message, fault)
		if fault.Cut == CutAfter {
			s.conn.reset()
			return
		}
		// What comes in one go is answered in one go.
		switch message.(type) {
		case *pgproto3.Query, *pgproto3.Sync, *pgproto3.Flush:
			if s.backend.Flush() != nil {
				return
			}
		}
		if fault.Cut == CutAnswered {
			s.conn.Close()
			return
		}
	}
}

// event is what is told of a message before it is handled.
func (s *session) event(message pgproto3.FrontendMessage) Event {
	e := Event{Number: s.messages}
	switch m := message.(type) {
	case *pgproto3.Query:
		e.Name, s.sql = "Query", m.String
	case *pgproto3.Parse:
		e.Name, s.sql = "Parse", m.Query
	case *pgproto3.Describe:
		e.Name = "Describe"
	case *pgproto3.Bind:
		e.Name = "Bind"
		if st := s.prepared[m.PreparedStatement]; st != nil {
			e.Commits = st.kind == commit
		}
	case *pgproto3.Execute:
		e.Name = "Execute"
		e.Commits = s.portal.statement != nil && s.portal.statement.kind == commit
	case *pgproto3.Sync:
		e.Name = "Sync"
	default:
		e.Name = "other"
	}
	if e.Name == "Query" || e.Name == "Parse" {
		if st, err := parse(s.sql); err == nil {
			e.Commits = st.kind == commit
		}
	}
	e.SQL = s.sql
	return e
}

func (s *session) handle(message pgproto3.FrontendMessage, fault Fault) {
	if _, isSync := message.(*pgproto3.Sync); s.skipping && !isSync {
		return
	}
	switch m := message.(type) {
	case *pgproto3.Query:
		st, failure := parse(m.String)
		if failure == nil {
			failure = s.execute(st, portal{statement: st}, true, fault)
		}
		if failure != nil {
			s.fail(failure)
		}
		s.ready()
	case *pgproto3.Parse:
		st, failure := parse(m.Query)
		if failure != nil {
			s.fail(failure)
			s.skipping = true
			return
		}
		s.prepared[m.Name] = st
		s.backend.Send(&pgproto3.ParseComplete{})
	case *pgproto3.Describe:
		st := s.prepared[m.Name]
		if m.ObjectType == 'P' {
			st = s.portal.statement
		} else {
			s.backend.Send(&pgproto3.ParameterDescription{ParameterOIDs: st.params})
		}
		if fields := st.fields(format(s.portal.results, 0)); fields != nil {
			s.backend.Send(fields)
		} else {
			s.backend.Send(&pgproto3.NoData{})
		}
	case *pgproto3.Bind:
		s.portal = portal{s.prepared[m.PreparedStatement], append([][]byte(nil), m.Parameters...), m.ParameterFormatCodes, m.ResultFormatCodes}
		for i, p := range s.portal.params {
			s.portal.params[i] = append([]byte(nil), p...) // m is used again
		}
		s.portal.formats = append([]int16(nil), m.ParameterFormatCodes...)
		s.portal.results = append([]int16(nil), m.ResultFormatCodes...)
		s.backend.Send(&pgproto3.BindComplete{})
	case *pgproto3.Execute:
		if failure := s.execute(s.portal.statement, s.portal, false, fault); failure != nil {
			s.fail(failure)
			s.skipping = true
		}
	case *pgproto3.Close:
		delete(s.prepared, m.Name)
		s.backend.Send(&pgproto3.CloseComplete{})
	case *pgproto3.Sync:
		s.skipping = false
		s.ready()
	}
}

func (s *session) fail(failure *pgproto3.ErrorResponse) {
	s.failed = s.tx != nil
	s.backend.Send(failure)
}

func (s *session) ready() {
	status := byte('I')
	switch {
	case s.tx != nil && s.failed:
		status = 'E'
	case s.tx != nil:
		status = 'T'
	}
	s.backend.Send(&pgproto3.ReadyForQuery{TxStatus: status})
}

var errConflict = failure("40001", "change conflicts with another transaction (OC000)")

// execute runs a statement and sends what it answers, but for an error, which it returns.
func (s *session) execute(st *statement, p portal, describe bool, fault Fault) *pgproto3.ErrorResponse {
	switch st.kind {
	case empty:
		s.backend.Send(&pgproto3.EmptyQueryResponse{})
		return nil
	case begin:
		if s.tx == nil {
			s.tx, s.failed = &tx{}, false
		}
		s.complete("BEGIN")
		return nil
	case rollback:
		s.tx = nil
		s.complete("ROLLBACK")
		return nil
	case commit:
		return s.commit(fault)
	}
	if s.failed && s.tx != nil {
		return failure("25P02", "current transaction is aborted, commands ignored until end of transaction block")
	}
	numbers, err := st.numbers(p.params, p.formats)
	if err != nil {
		return failure("22P02", err.Error())
	}
	x, autocommit := s.tx, s.tx == nil
	if autocommit {
		x = &tx{}
	}
	s.server.table.begin(x)
	row, tag := s.run(st, x, numbers)
	if autocommit {
		if fault.Error != "" && fault.Unapplied {
			return failure(fault.Error, "injected")
		}
		if !s.server.table.commit(x) {
			return errConflict
		}
	}
	if fault.Error != "" {
		return failure(fault.Error, "injected")
	}
	if describe {
		if fields := st.fields(format(p.results, 0)); fields != nil {
			s.backend.Send(fields)
		}
	}
	if row != nil {
		s.backend.Send(&pgproto3.DataRow{Values: [][]byte{encode(*row, format(p.results, 0))}})
	}
	s.complete(tag)
	return nil
}

// run runs a statement on rows. It returns the row that the statement returns, or nil.
func (s *session) run(st *statement, x *tx, numbers []int64) (row *int64, tag string) {
	table := s.server.table
	switch st.kind {
	case one:
		n := int64(1)
		return &n, "SELECT 1"
	case get, getLocked:
		if st.kind == getLocked {
			x.lock(numbers[0])
		}
		n, ok := table.read(x, numbers[0])
		if !ok {
			return nil, "SELECT 0"
		}
		return &n, "SELECT 1"
	case insert:
		x.write(numbers[0], numbers[1])
		return nil, "INSERT 0 1"
	}
	n, ok := table.read(x, numbers[1])
	if !ok {
		return nil, "UPDATE 0"
	}
	if st.kind == set {
		n = 0
	}
	n += numbers[0]
	x.write(numbers[1], n)
	if st.kind == addReturns {
		row = &n
	}
	return row, "UPDATE 1"
}

func (s *session) commit(fault Fault) *pgproto3.ErrorResponse {
	x := s.tx
	s.tx = nil
	switch {
	case x == nil:
		s.complete("COMMIT")
		return nil
	case s.failed:
		s.complete("ROLLBACK")
		return nil
	case fault.Error != "" && fault.Unapplied:
		return failure(fault.Error, "injected")
	case !s.server.table.commit(x):
		s.server.conflicts.Add(1)
		return errConflict
	case fault.Error != "":
		return failure(fault.Error, "injected")
	}
	s.complete("COMMIT")
	return nil
}

func (s *session) complete(tag string) {
	s.backend.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
}
