package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
)

// sqliteDDL turns the words of a migration, which are PostgreSQL's, into
// SQLite's: a BIGINT key becomes the row id, and bytes have another name.
func sqliteDDL(text string) string {
	return strings.NewReplacer("BIGINT NOT NULL PRIMARY KEY", "INTEGER PRIMARY KEY", "BYTEA", "BLOB").Replace(text)
}

// sqliteRows gives the places of an INSERT's rows: "(?, ?), (?, ?)". Statements
// elsewhere number them ($1), which both engines take; here it would cost a
// fifth of the time of storing results.
func sqliteRows(rows, width int) string {
	row := "(?" + strings.Repeat(", ?", width-1) + ")"
	return row + strings.Repeat(", "+row, rows-1)
}

// sqlitePool opens a pool on the file at path, which it makes with mode 0600
// if it does not exist; SQLite gives the files beside it the same mode.
func sqlitePool(path string, conns int, pragmas ...string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	query := url.Values{"_pragma": append([]string{
		"busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(1)",
		"cache_size(-16000)", "journal_size_limit(67108864)", "trusted_schema(0)",
		"secure_delete(1)", // what is removed may be a secret: arguments of closed jobs
	}, pragmas...)}
	dsn := (&url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: query.Encode()}).String()
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	return pool, nil
}

// SQLite's result codes (sqlite.org/rescode.html). The low byte is the class.
const (
	codeNoMem    = 7
	codeReadOnly = 8
	codeIOErr    = 10
	codeCorrupt  = 11
	codeFull     = 13
	codeCantOpen = 14
	codeNotADB   = 26
	codeFsync    = codeIOErr | 4<<8
	codeDirFsync = codeIOErr | 5<<8
	codeShmSize  = codeIOErr | 19<<8 // the index of the WAL cannot grow: there is no room
)

// fault says what an error of the engine means for the store.
type fault int

const (
	faultNone    fault = iota // the write's own error
	faultFull                 // no room: this group fails, a later one may succeed
	faultIO                   // the disk or its file failed: this group fails
	faultDamaged              // the file is not what was written
	faultFsync                // what is durable is not known: nothing is written until restart
)

// faultOf classifies an error of the engine, wherever it is in err's chain.
func faultOf(err error) fault {
	var coded interface{ Code() int }
	if !errors.As(err, &coded) {
		return faultNone
	}
	switch code := coded.Code(); {
	case code == codeFsync || code == codeDirFsync:
		return faultFsync
	case code&0xff == codeFull || code == codeShmSize:
		return faultFull
	case code&0xff == codeIOErr, code&0xff == codeNoMem, code&0xff == codeReadOnly, code&0xff == codeCantOpen:
		return faultIO
	case code&0xff == codeCorrupt, code&0xff == codeNotADB:
		return faultDamaged
	}
	return faultNone
}

// checkPragmas makes sure that the engine took the settings that durability
// depends on; some file systems cannot do WAL.
func checkPragmas(ctx context.Context, conn *sql.Conn) error {
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	var sync int
	if err := conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&sync); err != nil {
		return err
	}
	if mode != "wal" || sync < 2 {
		return fmt.Errorf("the database runs with journal mode %s and synchronous %d; want wal and 2 (is it on a network file system?)", mode, sync)
	}
	return nil
}
