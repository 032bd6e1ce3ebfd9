//go:build fleet

package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Live output is taken for a hop's own machines alone, and is no program for terminals.
func testEvilOutput(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	block := make([]byte, 32<<10)
	for i := range block {
		block[i] = "\x1b[2Jpwned\r\n"[i%11]
	}
	wrote := make(chan int64, 1)
	hop.does(func(o evilOrder) {
		st, n := o.open("output"), int64(0)
		for ; n < 1<<30; n += int64(len(block)) {
			if tell(st, outputs("good-1", "stdout", block)) != nil {
				break
			}
		}
		st.CloseWithReason("enough")
		wrote <- n
		o.answer(fine("evil-[1,2]"))
	})
	began := time.Now()
	c := top.root.run("run", "--fold=false", "--delegate", "*-*", "--", "echo", "hello").exits(0)
	c.tells("overlord/evil answered for machines that it was not sent").prints("good-1", "top-1")
	if o := c.out.String() + c.err.String(); strings.Contains(o, "pwned") || strings.Contains(o, "\x1b") {
		t.Errorf("output for foreign machines is shown: %.300q", o)
	}
	t.Logf("foreign output: %d MiB were taken in %s; the top's peak %d MiB", <-wrote>>20, time.Since(began).Round(time.Millisecond), memory(t, top.overlord.pid(), "VmHWM")>>20)

	hop.does(func(o evilOrder) { // its own machine's, with escapes, in a stream of a strange name, and a chunk that is too large
		st := o.open("output")
		_ = tell(st, outputs("evil-1", "stdout", []byte("\x1b]0;title\x07hello\n")), outputs("evil-2", "stdout", []byte("last\n")),
			outputs("evil-1", "\x1b[31m", []byte("strange\n")), outputs("evil-2", "stdout", []byte("strange, too\n")))
		_ = st.Close()
		o.answer(fine("evil-[1,2]"))
	})
	c = top.root.run("run", "--fold=false", "--delegate", "*-*", "--", "echo", "hello").exits(0).prints("hello", "last")
	if o := c.out.String() + c.err.String(); strings.Contains(o, "\x1b") || strings.Contains(o, "strange") {
		t.Errorf("escapes or strange streams are shown: %.300q", o)
	}

	// Results for all, and an order that it never ends.
	for name, act := range map[string]func(o evilOrder){
		"no end": func(o evilOrder) {
			st := o.open("events")
			_ = tell(st, fine("evil-[1,2]"))
			_ = st.Close()
		},
		"no end of its output": func(o evilOrder) {
			o.open("output")
			st := o.open("events")
			_ = tell(st, fine("evil-[1,2]"))
		},
	} {
		hop.does(act)
		c = top.root.run("run", "--fold=false", "--delegate", "*-*", "--timeout", "0", "--", "echo", "hello").exits(0).within(20*time.Second).prints("good-1", "top-1")
		t.Logf("%s: %s", name, c.took.Round(time.Millisecond))
	}
	hop.does(func(o evilOrder) { // a reader's patience: nothing but escapes
		st := o.open("output")
		for range 50 {
			if tell(st, outputs("evil-1", "stdout", block)) != nil {
				break
			}
		}
		_ = st.Close()
		o.answer(fine("evil-[1,2]"))
	})
	if c = top.root.run("run", "--fold=false", "--delegate", "evil-*", "--", "true").exits(0); strings.Contains(c.out.String(), "\x1b") {
		t.Error("an escape reaches the terminal")
	}
	fmt.Fprintln(t.Output(), "the top's peak in MiB:", memory(t, top.overlord.pid(), "VmHWM")>>20)
}
