package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/dsqltx"
)

// requestTimeout bounds one request's work: connecting, waiting and retries included.
const requestTimeout = 10 * time.Second

type order struct {
	ID       string `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

var errSoldOut = errors.New("sold out")

type service struct {
	pool *pgxpool.Pool
	http.ServeMux
}

func newService(pool *pgxpool.Pool) *service {
	s := &service{pool: pool}
	ready := readiness{ping: pool.Ping}

	// Live: this process answers. The database is left out, since a restart would not mend it.
	s.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	// Ready: requests can be served, so the database can be reached.
	s.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready.check(r.Context()); err != nil {
			fail(w, r, err)
		}
	})
	s.HandleFunc("PUT /orders/{id}", s.putOrder)
	return s
}

// putOrder takes an order whose ID the client has chosen. Sent again, it is taken once: the
// answer is 200 with the order as it stands, and 201 when it is new.
func (s *service) putOrder(w http.ResponseWriter, r *http.Request) {
	// The context ends with the client's connection too, and a transaction with it.
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil || o.Quantity < 1 {
		http.Error(w, `send an item and a quantity of 1 or more: {"item": "tea", "quantity": 2}`, http.StatusBadRequest)
		return
	}
	o.ID = r.PathValue("id")
	isNew, err := s.take(ctx, &o)
	if err != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if isNew {
		w.WriteHeader(http.StatusCreated)
	}
	_ = json.NewEncoder(w).Encode(o) // the client may be gone
}

func (s *service) take(ctx context.Context, o *order) (isNew bool, err error) {
	wanted := *o
	// After a commit of unknown outcome, the next attempt finds the order if that was applied.
	runner := dsqltx.Runner{Idempotent: true}
	err = runner.Run(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error { // from the start each time it runs
		*o = wanted
		tag, err := tx.Exec(ctx, "insert into orders values ($1, $2, $3) on conflict do nothing", o.ID, o.Item, o.Quantity)
		if err != nil {
			return err
		}
		if isNew = tag.RowsAffected() == 1; !isNew {
			return tx.QueryRow(ctx, "select item, quantity from orders where id = $1", o.ID).Scan(&o.Item, &o.Quantity)
		}
		tag, err = tx.Exec(ctx, "update stock set quantity = quantity - $1 where item = $2 and quantity >= $1", o.Quantity, o.Item)
		if err == nil && tag.RowsAffected() == 0 {
			err = errSoldOut
		}
		return err
	})
	return isNew, err
}

// fail answers with what err means to the client. The log gets the error: it names hosts and roles.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	code, text := http.StatusInternalServerError, "internal error"
	switch {
	case errors.Is(err, errSoldOut):
		code, text = http.StatusConflict, "sold out"
	case r.Context().Err() != nil:
		return // the client is gone
	case errors.Is(err, context.DeadlineExceeded):
		// Quotas, a cluster that wakes up and conflicts are tried again until then.
		code, text = http.StatusServiceUnavailable, "try again: what was done already is not done twice"
	}
	if code != http.StatusConflict {
		log.Printf("%s %s: %d: %v", r.Method, r.URL.Path, code, err)
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, text, code)
}
