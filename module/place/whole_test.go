package place

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

func TestWholeFiles(t *testing.T) {
	dir := tree(t)
	must(t, os.Symlink("f", dir+"/l"))
	if _, err := ReadFile(dir+"/l", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of nothing: %v", err)
	}
	must(t, WriteFile(dir+"/l", []byte("12345"), As{}))
	if b, err := ReadFile(dir+"/f", 5); err != nil || string(b) != "12345" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	if _, err := ReadFile(dir+"/f", 4); !errors.Is(err, ErrLarge) {
		t.Errorf("ReadFile of too much: %v", err)
	}
	if err := WriteFile(dir, nil, As{}); !errors.Is(err, ErrKind) {
		t.Errorf("WriteFile to a directory: %v", err)
	}
}
