package overlord

import "testing"

// A machine that gets the name of a sub-overlord whose certificate has ended is none.
func TestNameOfASubOverlordIsUsedAgain(t *testing.T) {
	var f fleet
	f.load([]string{"x"}, nil)
	f.enrolledSub("x")
	if !f.isSub("x") {
		t.Fatal("x is no sub-overlord")
	}
	f.enrolled("x")
	if f.isSub("x") {
		t.Error("the machine x is taken for the sub-overlord that it was")
	}
}
