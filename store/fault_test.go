package store_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/fleettest/smalldisk"
	"dominion/store"
	"dominion/store/storetest"
)

// TestOpenOnFullDisk fills the disk under a store that is closed.
func TestOpenOnFullDisk(t *testing.T) {
	dir := smalldisk.New(t, "2m")
	path, k := file(filepath.Join(dir, "store.db")), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	closeDB(t, path.Open(t, opt))
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096)) // a larger one fails while there is still room
	}
	if err := errors.Join(err, ballast.Close()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	if _, err := store.Open(t.Context(), string(path), opt); err == nil || !strings.Contains(err.Error(), "the disk under it is full") {
		t.Errorf("Open = %v; want that the disk is full", err)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	closeDB(t, path.Open(t, opt))
}

// TestFullDisk writes until the disk is full.
func TestFullDisk(t *testing.T) {
	dir := smalldisk.New(t, "2m")
	path, k := file(filepath.Join(dir, "store.db")), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	j := storetest.Job(time.Now())
	storetest.AddJob(t, db, &j)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	stored, err := fillUp(t, db, j.ID)
	if call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "is full") {
		t.Fatalf("write on a full disk = %v; want unavailable, and that it is full", err)
	}
	if !strings.Contains(db.Problem(), "is full") {
		t.Errorf("Problem = %q; want that the disk is full", db.Problem())
	}
	if _, err := db.Job(t.Context(), j.ID); err != nil {
		t.Errorf("read on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, db, func(tx *store.Tx) error {
		return tx.AddResults(t.Context(), j.ID, []store.ResultGroup{{Number: stored, Output: []byte("1")}})
	})
	if db.Problem() != "" {
		t.Errorf("Problem with room again = %q", db.Problem())
	}
	if r := storetest.Verify(t, db, nil); r.Results != int64(stored+1) {
		t.Errorf("%d results are stored; want the %d that were acknowledged", r.Results, stored+1)
	}
	closeDB(t, db)
	opt.Outside = k.Note()
	db = path.Open(t, opt)
	defer db.Close()
	if db.AuditProblem() != "" {
		t.Errorf("AuditProblem = %q", db.AuditProblem())
	}
	storetest.Verify(t, db, k.Note())
}

// fillUp stores outputs until an error, and gives how many were stored.
func fillUp(t *testing.T, db *store.DB, job call.JobID) (int, error) {
	for i := range 1000 {
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.AddResults(t.Context(), job, []store.ResultGroup{{Number: i, Names: "web1", Count: 1, Output: bytes.Repeat([]byte{byte(i)}, 50_000)}})
		})
		if err != nil {
			return i, err
		}
	}
	return 1000, nil
}

// TestKill kills a process that writes, again and again, and looks for what it
// was told to be durable.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	opt := storetest.Options(t, new(storetest.Keeper))
	seed := fmt.Sprintf("%x", opt.LogKey.Seed())
	last := -1
	for round := range 5 {
		cmd := osexec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), "STORE_KILL_DIR="+dir, "STORE_KILL_SEED="+seed)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			i, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "done "))
			if err != nil {
				continue
			}
			last = max(last, i)
			if n++; n == 200+50*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		note, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		opt.Outside = note
		db := file(filepath.Join(dir, "store.db")).Open(t, opt)
		if db.AuditProblem() != "" {
			t.Errorf("round %d: AuditProblem = %q", round, db.AuditProblem())
		}
		if r := storetest.Verify(t, db, note); r.Size <= int64(last) {
			t.Errorf("round %d: %d records; the process was told that %d are durable", round, r.Size, last+1)
		}
		closeDB(t, db)
	}
}

// TestKillChild is the process that TestKill kills.
func TestKillChild(t *testing.T) {
	dir := os.Getenv("STORE_KILL_DIR")
	if dir == "" {
		return
	}
	opt := storetest.Options(t, new(storetest.Keeper))
	seed, err := hex.DecodeString(os.Getenv("STORE_KILL_SEED"))
	if err != nil {
		t.Fatal(err)
	}
	opt.LogKey = ed25519.NewKeyFromSeed(seed)
	checkpoint := filepath.Join(dir, "checkpoint")
	opt.OnCheckpoint = func(note []byte) error {
		if err := os.WriteFile(checkpoint+".new", note, 0o600); err != nil {
			return err
		}
		return os.Rename(checkpoint+".new", checkpoint)
	}
	note, err := os.ReadFile(checkpoint)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	opt.Outside = note
	db := file(filepath.Join(dir, "store.db")).Open(t, opt)
	for range 8 {
		go func() {
			for {
				var index int64
				err := db.Update(context.WithoutCancel(t.Context()), func(tx *store.Tx) (err error) {
					index, err = tx.Audit(&auditpb.Record{Action: "test"})
					return err
				})
				if err != nil {
					panic(err)
				}
				fmt.Printf("done %d\n", index)
			}
		}()
	}
	select {} // until killed
}

// TestDamagedFile opens files that are no store of ours.
func TestDamagedFile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path file)
		words   string
	}{
		{"no database", func(t *testing.T, path file) {
			if err := os.WriteFile(string(path), bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "damaged or is no database"},
		{"pages overwritten", func(t *testing.T, path file) {
			db := path.Open(t, storetest.Options(t, new(storetest.Keeper)))
			fill(t, db)
			closeDB(t, db)
			f, err := os.OpenFile(string(path), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 200_000), 100); err != nil {
				t.Fatal(err)
			}
		}, "damaged or is no database"},
		{"another program's", func(t *testing.T, path file) {
			db := path.Open(t, storetest.Options(t, new(storetest.Keeper)))
			closeDB(t, db)
			rawExec(t, path, "DROP TABLE meta")
		}, "another program's tables"},
		{"a newer schema", func(t *testing.T, path file) {
			closeDB(t, path.Open(t, storetest.Options(t, new(storetest.Keeper))))
			exec(t, path, "UPDATE meta SET value = '99' WHERE name = 'schema'")
		}, "schema 99, written by a newer program"},
		{"a schema that is no number", func(t *testing.T, path file) {
			closeDB(t, path.Open(t, storetest.Options(t, new(storetest.Keeper))))
			exec(t, path, "UPDATE meta SET value = 'x' WHERE name = 'schema'")
		}, `schema version is "x"`},
		{"no schema version", func(t *testing.T, path file) {
			closeDB(t, path.Open(t, storetest.Options(t, new(storetest.Keeper))))
			exec(t, path, "DELETE FROM meta WHERE name = 'schema'")
		}, "it is not a store"},
		{"a directory", func(t *testing.T, path file) {
			if err := os.Mkdir(string(path), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := fresh(t)
			tt.prepare(t, path)
			db, err := store.Open(t.Context(), string(path), storetest.Options(t, new(storetest.Keeper)))
			if err == nil {
				closeDB(t, db)
			}
			if err == nil || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Open = %v; want %q", err, tt.words)
			}
		})
	}
}

func TestFileMode(t *testing.T) {
	path := fresh(t)
	db := path.Open(t, storetest.Options(t, new(storetest.Keeper)))
	defer db.Close()
	storetest.Update(t, db, note)
	for _, side := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(string(path) + side)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode of store.db%s is %v; want 0600", side, info.Mode())
		}
	}
}

// TestPath opens a file whose name means something in a URL.
func TestPath(t *testing.T) {
	path := file(filepath.Join(t.TempDir(), "a b?c=%41&#ä.db"))
	db := path.Open(t, storetest.Options(t, new(storetest.Keeper)))
	defer db.Close()
	storetest.Update(t, db, note)
	if _, err := os.Stat(string(path)); err != nil {
		t.Error(err)
	}
}

// TestCheckpointNotKept makes the place outside fail, and work again.
func TestCheckpointNotKept(t *testing.T) {
	var mu sync.Mutex
	var fails error
	called := make(chan error, 100)
	opt := storetest.Options(t, new(storetest.Keeper))
	opt.OnCheckpoint = func([]byte) error {
		mu.Lock()
		defer mu.Unlock()
		called <- fails
		return fails
	}
	db := fresh(t).Open(t, opt)
	<-called
	set := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		fails = err
	}
	for _, want := range []error{errors.New("no such place"), nil} {
		set(want)
		storetest.Update(t, db, note)
		if got := <-called; !errors.Is(got, want) {
			t.Fatalf("OnCheckpoint returned %v; want %v", got, want)
		}
		deadline := time.Now().Add(10 * time.Second)
		for ; (want != nil) != strings.Contains(db.Problem(), "no such place"); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("Problem = %q when OnCheckpoint returned %v", db.Problem(), want)
			}
		}
	}
	closeDB(t, db)
}

// TestCancelled gives up writes that wait behind another one.
func TestCancelled(t *testing.T) {
	db := fresh(t).Open(t, storetest.Options(t, new(storetest.Keeper)))
	defer db.Close()
	began, end := make(chan bool), make(chan bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Update(t.Context(), func(*store.Tx) error { close(began); <-end; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-began
	reason := errors.New("not wanted any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	ran := false
	for range 3 {
		if err := db.Update(ctx, func(*store.Tx) error { ran = true; return nil }); !errors.Is(err, reason) {
			t.Errorf("Update of what was given up = %v; want %v", err, reason)
		}
	}
	close(end)
	wg.Wait()
	storetest.Update(t, db, func(*store.Tx) error { return nil }) // behind the three
	if ran {
		t.Error("a write ran after its waiter gave up")
	}
}

// TestCloseFinishes closes while writes wait: each is done, or refused.
func TestCloseFinishes(t *testing.T) {
	path, k := fresh(t), new(storetest.Keeper)
	opt := storetest.Options(t, k)
	db := path.Open(t, opt)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := int64(0)
	for range 50 {
		wg.Go(func() {
			for {
				switch err := db.Update(t.Context(), note); call.CodeOf(err) {
				case call.OK:
					mu.Lock()
					done++
					mu.Unlock()
				case call.Unavailable:
					return
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if c, _ := db.Checkpoint(); c.Size > 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no 100 records in 10 s")
		}
	}
	closeDB(t, db)
	closeDB(t, db) // a second time does nothing
	wg.Wait()
	opt.Outside = k.Note()
	db = path.Open(t, opt)
	defer db.Close()
	if r := storetest.Verify(t, db, k.Note()); r.Size != done {
		t.Errorf("%d records; %d were acknowledged", r.Size, done)
	}
}
