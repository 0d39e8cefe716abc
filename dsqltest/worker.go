package dsqltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// worker is a session of PostgreSQL's superuser.
type worker struct {
	postgres *postgres
	frontend *pgproto3.Frontend
	close    func()
	key      []byte // process ID and secret, as a CancelRequest has them
	status   byte   // of its transaction, as ReadyForQuery has it
}

// openWorker opens a session that fails once ctx has ended.
func (p *postgres) openWorker(ctx context.Context) (*worker, error) {
	conn, frontend, key, err := p.login(ctx)
	if err != nil {
		return nil, err
	}
	stop := interruptAtEnd(ctx, conn)
	return &worker{postgres: p, frontend: frontend, key: key, close: func() {
		stop()
		conn.Close()
	}}, nil
}

// exec runs statements, each in a transaction of its own, up to the first that fails.
func (w *worker) exec(statements ...string) error {
	for _, sql := range statements {
		if _, err := w.query(sql); err != nil {
			return err
		}
	}
	return nil
}

// query returns the last row that a statement has, with "" for NULL.
func (w *worker) query(sql string) (row []string, err error) {
	w.frontend.Send(&pgproto3.Query{String: sql})
	if err := w.frontend.Flush(); err != nil {
		return nil, err
	}
	for {
		message, receiveErr := w.frontend.Receive()
		if receiveErr != nil {
			return nil, receiveErr
		}
		switch message := message.(type) {
		case *pgproto3.DataRow:
			row = nil
			for _, value := range message.Values {
				row = append(row, string(value))
			}
		case *pgproto3.CopyInResponse:
			w.frontend.Send(&pgproto3.CopyFail{Message: "there is no data: use INSERT"})
			if err := w.frontend.Flush(); err != nil {
				return nil, err
			}
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(message)
		case *pgproto3.ReadyForQuery:
			w.status = message.TxStatus
			return row, err
		}
	}
}

// cancel has PostgreSQL end the statement that the session of key runs. When it returns without an
// error, the signal is sent: no later statement is hit.
func (p *postgres) cancel(ctx context.Context, key []byte) error {
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interruptAtEnd(ctx, conn)()
	message := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
	message = binary.BigEndian.AppendUint32(message, cancelCode)
	if _, err := conn.Write(append(message, key...)); err != nil {
		return fmt.Errorf("cancel request: %w", because(ctx, err))
	}
	// PostgreSQL hangs up when the signal is sent. Clients rely on the same: one that saw its
	// connection end may not be hit by the cancel afterwards.
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("cancel request: %w", because(ctx, err))
	}
	return nil
}
