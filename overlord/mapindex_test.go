package overlord

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/pki"
)

// bare is an overlord without anything but a name and a state directory.
func bare(t *testing.T, name string) *Overlord {
	t.Helper()
	dir, err := pki.OpenDir(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return &Overlord{cfg: Config{Name: name}, dir: dir, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func (o *Overlord) put(t *testing.T, name, text string) {
	t.Helper()
	if err := o.dir.WriteFile(name, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestFleetIndex(t *testing.T) {
	o := bare(t, "top")
	if _, err := o.fleetIndex(); call.CodeOf(err) != call.NotFound || !strings.Contains(err.Error(), "dominion map build") {
		t.Errorf("without a map: %v", err)
	}
	o.put(t, fileMap, "---\ndc1:\n    web1: {}\n    top: {web9: {}}\nmail1: {}\n")
	ix, err := o.fleetIndex()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ix.Names(), " "); got != "dc1 mail1 web1" {
		t.Errorf("names %q; want those without the overlord itself", got)
	}
	if again, err := o.fleetIndex(); err != nil || again != ix {
		t.Errorf("the file is read again, or not at all: %v", err)
	}
	found, err := proto.Marshal(&apipb.MapResponse{Map: &apipb.FleetMap{Conflicts: []*apipb.MapConflict{{Name: "web1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	o.put(t, fileMapFound, string(found))
	if ix, err = o.fleetIndex(); err != nil {
		t.Fatal(err)
	}
	if _, routed := ix.Route("web1"); routed {
		t.Error("a name of two machines is routed")
	}
	theirs, err := o.indexOf([]byte("web1: {}\nweb2: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if r := theirs.Routes([]string{"web1", "web2"}, nil); !slices.Equal(r.Conflicts, []string{"web1"}) || len(r.Paths) != 1 {
		t.Errorf("with a map of the request: %+v", r)
	}
	if own, err := o.indexOf(nil); err != nil || own != ix {
		t.Errorf("without one: %v", err)
	}
	if _, err := o.indexOf([]byte("- web1\n")); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a map that is none: %v", err)
	}
	o.put(t, fileMap, "- web1\n")
	if _, err := o.fleetIndex(); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), o.mapPath()+": line 1") {
		t.Errorf("a file that is no map: %v", err)
	}
	if theirs, err = o.indexOf([]byte("web1: {}\n")); err != nil {
		t.Error(err)
	} else if _, routed := theirs.Route("web1"); routed {
		t.Error("a conflict is forgotten with the own map")
	}
	if err := os.Remove(o.mapPath()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.fleetIndex(); call.CodeOf(err) != call.NotFound {
		t.Errorf("without a map again: %v", err)
	}
	o.put(t, fileMapFound, "\x00\x00")
	if _, err := o.fleetIndex(); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), fileMapFound) {
		t.Errorf("with damaged findings: %v", err)
	}
}
