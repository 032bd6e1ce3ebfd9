package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
)

func FuzzParseRecord(f *testing.F) {
	job := call.NewJobID(now)
	for _, r := range []record{
		{kind: kindStarted, job: job, expiry: now.UnixMilli(), overlord: "dc1", method: "test.touch"},
		{kind: kindFinished, job: job, ended: now.UnixMilli(), result: &fleetpb.Result{Code: 5, Detail: "no", Output: []byte("{}"), TookUs: 7}},
		{kind: kindReleased, job: job},
		{kind: kindDropped, job: job, ended: 1, result: &fleetpb.Result{Code: 3}},
		{kind: kindBirth, expiry: now.UnixMilli()},
	} {
		f.Add(r.append(nil)[4:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Fatalf("error %v does not wrap ErrFile", err)
			}
			return
		}
		got := r.append(nil)
		if !bytes.Equal(got[4:], b) || int64(len(got)) != r.size() {
			t.Fatalf("accepted %x but encodes back to %x, size %d", b, got[4:], r.size())
		}
	})
}

// seed is a journal with one of everything.
func seed(t testing.TB) (file []byte, ends []int64, jobs []call.JobID) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	mark := func() { ends = append(ends, j.offset) }
	ok(t, j.SetBirth(now))
	mark()
	for i := range 3 {
		job := start(t, j)
		mark()
		ok(t, j.Finish(job, result(i)))
		mark()
		jobs = append(jobs, job)
	}
	j.Release(jobs[0])
	jobs = append(jobs, start(t, j))
	mark()
	ok(t, j.Close())
	return content(t, dir), ends, jobs
}

// FuzzOpen changes a journal from some byte on. Whatever is there, it opens, can
// be used, and has every job whose frame came before the change, unless it says
// that it was damaged and a new one begun.
func FuzzOpen(f *testing.F) {
	file, ends, jobs := seed(f)
	for _, at := range append([]int64{0, 3, headerSize}, ends...) {
		f.Add(uint32(at), []byte{}, false)
		f.Add(uint32(at), bytes.Repeat([]byte{0}, 40), true)
		f.Add(uint32(at), file[headerSize:], true)
	}
	f.Add(uint32(0), file, false)
	f.Fuzz(func(t *testing.T, at uint32, with []byte, rest bool) {
		cut := min(int64(at), int64(len(file)))
		b := append(bytes.Clone(file[:cut]), with...)
		if n := len(b); rest && n < len(file) {
			b = append(b, file[n:]...)
		}
		same := cut
		for same < int64(min(len(b), len(file))) && b[same] == file[same] {
			same++
		}
		dir := put(t, b)
		j := open(t, dir, Options{})
		aside, err := filepath.Glob(filepath.Join(dir, "damaged-*"))
		ok(t, err)
		if len(aside) > 0 {
			if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, b) || j.Len() != 0 || !j.Birth().IsZero() {
				t.Fatalf("set aside: %v, %d jobs, birth %s", err, j.Len(), j.Birth())
			}
		} else {
			for i, job := range jobs {
				if same >= ends[1+2*i] {
					wantState(t, j, job, call.Finished)
				}
				if i < 3 && same >= ends[2+2*i] {
					wantResult(t, j, job, result(i))
				}
			}
		}
		job := run(t, j, result(9))
		j = reopen(t, j, dir, Options{})
		wantResult(t, j, job, result(9))
	})
}
