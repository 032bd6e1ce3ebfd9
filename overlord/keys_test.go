package overlord

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"dominion/pki"
)

// A new issuing CA signs once it is on the disk: after a restart nobody would
// know one that was not. And one is not kept twice among the former ones.
func TestIssuingIsRenewedOnDiskFirst(t *testing.T) {
	dir, err := pki.OpenDir(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	k, err := loadKeys(dir, Config{Name: "overlord"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old := k.issuing.Load()
	for range 2 {
		if err := k.retire(old.Cert); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(*k.former.Load()); n != 1 {
		t.Errorf("%d former issuing CAs; want 1", n)
	}
	ca := filepath.Join(dir.Path(), "ca")
	if err := os.Rename(ca, ca+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", ca); err != nil { // is not there for reading, and cannot be made
		t.Fatal(err)
	}
	if err := k.renewIssuing(time.Now()); err == nil {
		t.Error("renewed, and nothing can be written")
	}
	if k.issuing.Load() != old {
		t.Error("an issuing CA signs that is not on the disk")
	}
}
