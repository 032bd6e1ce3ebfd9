//go:build faults

package session

import "testing"

func TestFaults(t *testing.T) {
	env := map[string]string{faultSeed: "7", faultDrop: "0.25", faultDouble: "0.5"}
	f, err := newFaults(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	var n [3]int
	for range 10000 {
		n[f.copies()]++
	}
	if n[0] < 2300 || n[0] > 2700 || n[2] < 4800 || n[2] > 5200 {
		t.Errorf("of 10000 frames %d were dropped and %d doubled; want 2500 and 5000", n[0], n[2])
	}
	for _, c := range []Type{TypeHello, TypeCall, TypePing, TypeData, TypeGoaway} {
		if copies(c) != 1 {
			t.Errorf("%s is not left alone", c)
		}
	}
	if f, err = newFaults(func(string) string { return "" }); err != nil || f.copies() != 1 {
		t.Errorf("without variables: %v; want no faults", err)
	}
	for name, v := range map[string]string{faultSeed: "x", faultDrop: "1.1", faultDouble: "NaN"} {
		if _, err := newFaults(func(n string) string {
			if n == name {
				return v
			}
			return ""
		}); err == nil {
			t.Errorf("%s=%s: no error", name, v)
		}
	}
}
