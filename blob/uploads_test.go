package blob_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"dominion/blob"
	"dominion/call"
)

// Uploads that nobody goes on with do not keep others away for ever, though there is
// room on the disk.
func TestUploadsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), blob.Options{})
		data, _ := random(1, 10)
		begin := func(i int) error {
			_, err := s.Receive(t.Context(), blob.UploadID{byte(i >> 8), byte(i)}, 0, breaking{bytes.NewReader(data)})
			return err
		}
		n := 0
		for ; n < 10_000 && call.CodeOf(begin(n)) != call.Busy; n++ {
		}
		if n == 10_000 {
			t.Fatal("there may be any number of them")
		}
		time.Sleep(2 * time.Minute)
		if err := begin(n); call.CodeOf(err) == call.Busy {
			t.Errorf("after two minutes: %v", err)
		}
	})
}
