package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema to this program's version, one transaction for
// each step. A schema of a newer program is refused.
func migrate(ctx context.Context, conn *sql.Conn, ddl func(string) string) error {
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	have, err := schemaVersion(ctx, conn)
	if err != nil {
		return err
	}
	if have > len(steps) {
		return fmt.Errorf("the store has schema %d, written by a newer program; this one knows %d", have, len(steps))
	}
	for i, name := range steps[have:] {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		if err := step(ctx, conn, ddl(string(text)), have+i+1); err != nil {
			return fmt.Errorf("bring the schema to version %d: %w", have+i+1, err)
		}
	}
	return nil
}

// schemaVersion is 0 for an empty database.
func schemaVersion(ctx context.Context, conn *sql.Conn) (int, error) {
	var text string
	err := conn.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'schema'").Scan(&text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, errors.New("the database does not say its schema's version: it is not a store")
	case err != nil && faultOf(err) == faultNone && strings.Contains(err.Error(), "no such table"):
		return emptyVersion(ctx, conn)
	case err != nil:
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("the store's schema version is %q", text)
	}
	return n, nil
}

// emptyVersion makes sure that a database without our tables has no others.
func emptyVersion(ctx context.Context, conn *sql.Conn) (int, error) {
	var tables int
	if err := conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return 0, err
	}
	if tables > 0 {
		return 0, errors.New("the database holds another program's tables")
	}
	return 0, nil
}

func step(ctx context.Context, conn *sql.Conn, text string, version int) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, text)
	if err == nil {
		_, err = tx.ExecContext(ctx, "INSERT INTO meta (name, value) VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value", strconv.Itoa(version))
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
