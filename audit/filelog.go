package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"dominion/call"
)

// FileLogOptions are the limits of a FileLog.
type FileLogOptions struct {
	Segment  int64        // bytes after which a new file is begun; 0: 16 MiB
	Keep     int64        // bytes of all files, after which the oldest is removed; 0: 256 MiB
	SetAside bool         // a damaged log is moved to a folder beside and a new one begun; false: opening it is an error
	Log      *slog.Logger // nil: discarded
}

// FileLog is a minion's log of what it ran, in a directory of its own. Its
// leaves are MinionRecords. Append returns when a leaf is on the disk; what
// several goroutines append meanwhile shares one fsync. It starts no goroutine
// and is safe for concurrent use.
//
// A file is named by its first leaf, 20 digits, and begins with the tree before
// it, so that removing older files leaves the tree whole. See filelog_file.go
// for the format.
type FileLog struct {
	opt  FileLogOptions
	dir  *os.Root
	turn chan struct{} // of one: held by who writes

	// Owned by who holds turn.
	file   *os.File
	offset int64 // in file

	mu     sync.Mutex
	id     string
	tree   *Tree
	files  []segment // oldest first
	next   *batch    // waits to be written; nil: none
	broken error     // the disk lost data: nothing is written until restart
	notes  []string
}

type segment struct {
	first int64 // leaf
	size  int64 // bytes; of the last one, what is durable
}

// batch is what one fsync makes durable.
type batch struct {
	payload []byte
	hashes  []Hash
	first   int64 // index of the first leaf, set before done is closed
	err     error
	done    chan struct{}
}

// OpenFileLog opens or begins the log in the directory path, which it makes
// with mode 0700. What a crash left unfinished at the end is cut off and said
// in the log and in Notes. Damage elsewhere is a *DamageError, unless SetAside.
func OpenFileLog(path string, opt FileLogOptions) (*FileLog, error) {
	if opt.Segment == 0 {
		opt.Segment = 16 << 20
	}
	if opt.Keep == 0 {
		opt.Keep = 256 << 20
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &FileLog{opt: opt, dir: dir, turn: make(chan struct{}, 1)}
	err = l.load()
	if damage, ok := errors.AsType[*DamageError](err); ok && opt.SetAside {
		err = l.setAside(damage)
	}
	if err != nil {
		_ = dir.Close() // err says more
		return nil, fmt.Errorf("open audit log %s: %w", path, err)
	}
	return l, nil
}

// Append adds a leaf and returns its index when it is on the disk. A full disk
// is an error of code Unavailable, and a later Append may succeed; after an
// fsync error every Append fails until the log is opened again.
func (l *FileLog) Append(r *MinionRecord) (int64, error) {
	leaf, err := EncodeMinion(r)
	if err != nil {
		return 0, fmt.Errorf("append to audit log: %w", err)
	}
	for {
		l.mu.Lock()
		if l.broken != nil {
			l.mu.Unlock()
			return 0, l.broken
		}
		if l.next == nil {
			l.next = &batch{done: make(chan struct{})}
		}
		b, n := l.next, len(l.next.hashes)
		full := n > 0 && len(b.payload)+len(leaf)+4 > maxPayload
		if !full {
			b.add(leaf)
		}
		l.mu.Unlock()

		l.wait(b)
		if full {
			continue
		}
		if b.err != nil {
			return 0, fmt.Errorf("append to audit log: %w", b.err)
		}
		return b.first + int64(n), nil
	}
}

// wait returns when b is written, by this goroutine if nobody else does it.
func (l *FileLog) wait(b *batch) {
	select {
	case <-b.done:
		return
	case l.turn <- struct{}{}:
	}
	l.mu.Lock()
	take := l.next
	l.next = nil
	l.mu.Unlock()
	if take != nil {
		take.err = l.write(take)
		close(take.done)
	}
	<-l.turn
	<-b.done // it was the one taken, or an earlier turn's
}

// write makes a batch durable; the caller holds turn.
func (l *FileLog) write(b *batch) error {
	l.mu.Lock()
	tree, broken := l.tree.Clone(), l.broken
	l.mu.Unlock()
	if broken != nil {
		return broken
	}
	if l.offset >= l.opt.Segment {
		if err := l.rotate(tree); err != nil {
			return err
		}
	}
	b.first = tree.Size()
	frame := frameOf(b.first, b.payload)
	if _, err := l.file.WriteAt(frame, l.offset); err != nil {
		if again := l.file.Truncate(l.offset); again != nil {
			return l.breakDown(again)
		}
		return call.Errorf(call.Unavailable, "write to the audit log of this machine: %v", err)
	}
	if err := l.file.Sync(); err != nil {
		return l.breakDown(err)
	}
	var buf []Hash
	for _, h := range b.hashes {
		buf = tree.Append(buf[:0], h)
	}
	l.offset += int64(len(frame))
	l.mu.Lock()
	l.tree = tree
	l.files[len(l.files)-1].size = l.offset
	l.mu.Unlock()
	return nil
}

func (l *FileLog) breakDown(cause error) error {
	err := call.Errorf(call.Unavailable, "the disk under the audit log of this machine lost data (%v); restart the agent once the disk is in order", cause)
	l.opt.Log.Error("audit log stopped", "error", cause)
	l.mu.Lock()
	l.broken = err
	l.mu.Unlock()
	return err
}

// Size is the number of leaves ever appended.
func (l *FileLog) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.Size()
}

// First is the oldest leaf that is still kept.
func (l *FileLog) First() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.files[0].first
}

// LogID names the log; it changes when a damaged log was set aside.
func (l *FileLog) LogID() string { return l.id }

// Notes says what was repaired when the log was opened, for people.
func (l *FileLog) Notes() []string { return l.notes }

// Checkpoint gives id, size and root as of now; the epoch is always 0.
func (l *FileLog) Checkpoint() Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Checkpoint{LogID: l.id, Size: l.tree.Size(), Root: l.tree.Root()}
}

// Close waits for the batch being written and closes the files. Later Appends fail.
func (l *FileLog) Close() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = call.Errorf(call.Unavailable, "the audit log is closed")
	}
	return errors.Join(l.file.Close(), l.dir.Close())
}

func newLogID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	return hex.EncodeToString(b[:])
}
