package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// ErrNotFound is wrapped by every method that finds no such row.
var ErrNotFound = errors.New("not in the store")

// A querier reads rows: the pool of readers, or a transaction of the writer.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// pool is a querier of the readers' connections that prepares each statement
// once: all are constant texts, and few.
type pool struct {
	*sql.DB

	mu    sync.Mutex
	stmts map[string]*sql.Stmt
}

// QueryContext implements querier.
func (p *pool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := p.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

func (p *pool) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.Lock()
	s := p.stmts[query]
	p.mu.Unlock()
	if s != nil {
		return s, nil
	}
	fresh, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.stmts[query]; s != nil { // somebody was faster
		return s, fresh.Close()
	}
	p.stmts[query] = fresh
	return fresh, nil
}

// close closes statements and connections; p may be nil.
func (p *pool) close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for _, s := range p.stmts {
		err = errors.Join(err, s.Close())
	}
	clear(p.stmts)
	return errors.Join(err, p.DB.Close())
}

// reader has the methods that read tables. DB has them on what is committed,
// Tx on what its transaction sees.
type reader struct{ q querier }

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// each yields the rows of a query; it ends after the first error.
func each[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			yield(none, fmt.Errorf("read the store: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			v, err := scan(rows)
			if err != nil {
				yield(none, fmt.Errorf("read the store: %w", err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, fmt.Errorf("read the store: %w", err))
		}
	}
}

// paged yields rows as each does, but reads them size at a time: neither a
// connection nor the database's past is held while the caller is slow. page
// gives the next rows; last is the one before, nil at first.
func paged[T any](size int, page func(last *T) ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var last *T
		for {
			rows, err := page(last)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range rows {
				if !yield(v, nil) {
					return
				}
			}
			if len(rows) < size {
				return
			}
			last = &rows[len(rows)-1]
		}
	}
}

func all[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	var out []T
	for v, err := range each(ctx, q, scan, query, args...) {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// one gives the first row; without any, the error wraps ErrNotFound and names what.
func one[T any](ctx context.Context, q querier, scan func(scanner) (T, error), what, query string, args ...any) (T, error) {
	var none T
	for v, err := range each(ctx, q, scan, query, args...) {
		return v, err
	}
	return none, fmt.Errorf("%s: %w", what, ErrNotFound)
}

func scanInt(s scanner) (int64, error) {
	var n int64
	err := s.Scan(&n)
	return n, err
}

func scanText(s scanner) (string, error) {
	var t string
	err := s.Scan(&t)
	return t, err
}

func scanBytes(s scanner) ([]byte, error) {
	var b []byte
	err := s.Scan(&b)
	return b, err
}

// at scans a column of milliseconds.
type at struct{ t *time.Time }

// Scan implements sql.Scanner.
func (a at) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", src)
	}
	*a.t = fromMS(n)
	return nil
}

// flag scans a column of 0 or 1.
type flag struct{ b *bool }

// Scan implements sql.Scanner.
func (f flag) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a flag is stored as %T", src)
	}
	*f.b = n != 0
	return nil
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// bytesOrEmpty is for columns that are not null.
func bytesOrEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
