package main

import "testing"

func TestOfProgram(t *testing.T) {
	for _, tt := range []struct {
		line       string
		from, size uintptr
		ok         bool
	}{
		{"00400000-01413000 r-xp 00001000 fe:01 1234                       /usr/bin/dominion", 0x400000, 0x1013000, true},
		{"01414000-02613000 r--p 01015000 fe:01 1234                       /usr/bin/dominion", 0x1414000, 0x11ff000, true},
		{"02613000-02700000 rw-p 02214000 fe:01 1234                       /usr/bin/dominion", 0, 0, false},
		{"7f0000000000-7f0000021000 r--p 00000000 00:00 0", 0, 0, false},
		{"7f0000000000-7f0000021000 r--s 00000000 fe:01 99  /dev/shm/x", 0, 0, false},
		{"7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]", 0, 0, false},
		{"", 0, 0, false},
		{"x-y r-xp", 0, 0, false},
	} {
		if from, size, ok := ofProgram(tt.line); from != tt.from || size != tt.size || ok != tt.ok {
			t.Errorf("ofProgram(%q) = %x, %x, %v; want %x, %x, %v", tt.line, from, size, ok, tt.from, tt.size, tt.ok)
		}
	}
}
