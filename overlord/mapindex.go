package overlord

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/apimap"
	"dominion/api/apipb"
	"dominion/call"
	"dominion/delegation"
)

// The map in the state directory.
const (
	fileMap      = "map"       // YAML: delegation.Save
	fileMapFound = "map.found" // an encoded apipb.MapResponse: what the last build found
)

const maxMapFound = 512 << 20 // bytes

// mapIndex is what the map's files said when they were read last. The zero
// value is ready.
type mapIndex struct {
	mu     sync.Mutex
	stamps [2]fileStamp // of fileMap and fileMapFound
	index  *delegation.Index
	barred []string // names that the last build found with different keys
}

// fileStamp tells one version of a file from another; the zero value: no file.
type fileStamp struct {
	size  int64
	mtime time.Time
	inode uint64
}

func stampOf(path string) (fileStamp, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileStamp{}, nil
	}
	if err != nil {
		return fileStamp{}, fmt.Errorf("look at the map: %w", err)
	}
	s := fileStamp{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s, nil
}

func (o *Overlord) mapPath() string      { return filepath.Join(o.dir.Path(), fileMap) }
func (o *Overlord) mapFoundPath() string { return filepath.Join(o.dir.Path(), fileMapFound) }

// fleetIndex answers which way machines are reached by this overlord's map. It
// is read again when its file has changed. Names that the last build found with
// different keys are not routed. Without a map the error has the code NotFound.
func (o *Overlord) fleetIndex() (*delegation.Index, error) {
	o.routes.mu.Lock()
	defer o.routes.mu.Unlock()
	if err := o.freshIndex(); err != nil {
		return nil, err
	}
	if o.routes.index == nil {
		return nil, errNoMap()
	}
	return o.routes.index, nil
}

func errNoMap() error {
	return call.Errorf(call.NotFound, "this overlord has no map of what is below it yet; make one with: dominion map build")
}

// indexOf is fleetIndex for the text of a map that came with a request, and
// for that of this overlord when there is none.
func (o *Overlord) indexOf(text []byte) (*delegation.Index, error) {
	if len(text) == 0 {
		return o.fleetIndex()
	}
	m, err := delegation.Parse(text)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the map that came with the request: %v", err)
	}
	if m, err = o.ownMap(m); err != nil {
		return nil, call.Errorf(call.Invalid, "the map that came with the request: %v", err)
	}
	o.routes.mu.Lock()
	defer o.routes.mu.Unlock()
	if err := o.freshIndex(); err != nil {
		o.log.Warn("own map not read; conflicts are those known before", "error", err)
	}
	return m.Index(o.routes.barred...), nil
}

// ownMap gives a map that was read as one of this overlord, which does not
// stand below itself.
func (o *Overlord) ownMap(m delegation.Map) (delegation.Map, error) {
	own, err := delegation.New(delegation.Node{Name: o.cfg.Name, Below: m.Self.Below})
	own.Self.Life, own.Self.Overlord = delegation.Alive, true
	own.Cuts = append(m.Cuts, own.Cuts...)
	return own, err
}

// forget makes the files be read again.
func (x *mapIndex) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stamps = [2]fileStamp{}
}

// freshIndex reads the files when they have changed; with o.routes.mu held.
func (o *Overlord) freshIndex() error {
	var now [2]fileStamp
	for i, path := range []string{o.mapPath(), o.mapFoundPath()} {
		var err error
		if now[i], err = stampOf(path); err != nil {
			return err
		}
	}
	if now == o.routes.stamps {
		return nil
	}
	found, err := o.readFound()
	if err != nil {
		return err
	}
	barred := apimap.Conflicts(found.GetMap())
	o.routes.barred = barred
	var index *delegation.Index
	if now[0] != (fileStamp{}) {
		m, err := o.readMap()
		if err != nil {
			return err
		}
		index = m.Index(barred...)
	}
	o.routes.stamps, o.routes.index = now, index
	return nil
}

// readMap reads the map's file; one that is not there is fs.ErrNotExist.
func (o *Overlord) readMap() (delegation.Map, error) {
	m, err := delegation.Load(o.mapPath())
	if err == nil {
		m, err = o.ownMap(m)
	}
	if errors.Is(err, delegation.ErrMap) {
		err = call.Errorf(call.Failed, "%v", err) // the code of ErrMap would blame the request
	}
	return m, err
}

// readFound reads what the last build found; an empty answer when there was none.
func (o *Overlord) readFound() (*apipb.MapResponse, error) {
	out := &apipb.MapResponse{}
	f, err := o.dir.Root().Open(fileMapFound)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the map's building found: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMapFound))
	if err == nil {
		err = proto.Unmarshal(b, out)
	}
	if err != nil {
		return nil, call.Errorf(call.Failed, "read %s: %v; build the map anew: dominion map build", o.mapFoundPath(), err)
	}
	return out, nil
}
