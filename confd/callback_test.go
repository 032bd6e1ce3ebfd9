package confd

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

// up makes an upcall; an empty answer is an expiry.
func up(salt, answer string, serial int64) *Upcall {
	if answer == "" {
		return &Upcall{Salt: salt, Kind: Expired}
	}
	return &Upcall{Salt: salt, Kind: Replied, Reply: Reply{Answer: []byte(answer), Serial: serial}}
}

func TestFilter(t *testing.T) {
	for name, tt := range map[string]struct {
		ups        []*Upcall
		passed     []int
		consistent any // nil: not known
		log        string
	}{
		"first":               {[]*Upcall{up("a", "1", 5)}, []int{0}, true, ""},
		"confirming":          {[]*Upcall{up("a", "1", 5), up("a", "1", 5)}, []int{0}, true, "same serial"},
		"newer and the same":  {[]*Upcall{up("a", "1", 5), up("a", "1", 6)}, []int{0}, true, "newer serial"},
		"newer and other":     {[]*Upcall{up("a", "1", 5), up("a", "2", 6)}, []int{0, 1}, true, ""},
		"older":               {[]*Upcall{up("a", "1", 5), up("a", "2", 4)}, []int{0}, true, "outdated"},
		"incoherent":          {[]*Upcall{up("a", "1", 5), up("a", "2", 5)}, []int{0}, false, "incoherent"},
		"incoherent for good": {[]*Upcall{up("a", "1", 5), up("a", "2", 5), up("a", "3", 9)}, []int{0, 2}, false, ""},
		"newer is remembered": {[]*Upcall{up("a", "1", 5), up("a", "1", 7), up("a", "2", 6)}, []int{0}, true, "outdated"},
		"salts apart":         {[]*Upcall{up("a", "1", 5), up("b", "2", 5)}, []int{0, 1}, true, ""},
		"expired":             {[]*Upcall{up("a", "1", 5), up("a", "", 0)}, []int{0, 1}, nil, ""},
		"again after expiry":  {[]*Upcall{up("a", "1", 5), up("a", "", 0), up("a", "1", 5)}, []int{0, 1, 2}, true, ""},
		"the same JSON":       {[]*Upcall{up("a", `{"x":1,"y":[1.0]}`, 5), up("a", `{"y": [1], "x": 1}`, 5)}, []int{0}, true, "same serial"},
		"expired unknown":     {[]*Upcall{up("a", "", 0)}, []int{0}, nil, ""},
	} {
		var passed []int
		var log strings.Builder
		i := 0
		f, err := NewFilter(func(*Upcall) { passed = append(passed, i) }, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err != nil {
			t.Fatal(err)
		}
		for i = range tt.ups {
			f.Upcall(tt.ups[i])
		}
		if !slices.Equal(passed, tt.passed) {
			t.Errorf("%s: passed %v; want %v", name, passed, tt.passed)
		}
		consistent, known := f.Consistent("a")
		if known != (tt.consistent != nil) || known && consistent != tt.consistent {
			t.Errorf("%s: consistent %v, known %v; want %v", name, consistent, known, tt.consistent)
		}
		if !strings.Contains(log.String(), tt.log) {
			t.Errorf("%s: log %q; want %q", name, log.String(), tt.log)
		}
	}
}

func TestCallbacksNeedOne(t *testing.T) {
	if _, err := NewFilter(nil, nil); !errors.Is(err, ErrCallback) {
		t.Errorf("NewFilter: %v", err)
	}
	if _, err := NewCounter(nil); !errors.Is(err, ErrCallback) {
		t.Errorf("NewCounter: %v", err)
	}
}

func TestCounter(t *testing.T) {
	n := 0
	c, err := NewCounter(func(*Upcall) { n++ })
	if err != nil {
		t.Fatal(err)
	}
	all := func(want bool) {
		t.Helper()
		if got := c.AllAnswered(); got != want {
			t.Errorf("AllAnswered = %v; want %v", got, want)
		}
	}
	all(true)
	if err := errors.Join(c.Register("a"), c.Register("b")); err != nil {
		t.Fatal(err)
	}
	all(false)
	c.Upcall(up("stranger", "1", 1))
	c.Upcall(up("a", "1", 1))
	c.Upcall(up("a", "2", 1))
	all(false)
	c.Upcall(up("b", "", 0)) // expired: not registered any more
	all(true)
	if err := c.Register("b"); err != nil {
		t.Error(err)
	}
	all(false)
	if n != 4 {
		t.Errorf("%d upcalls passed on; want 4", n)
	}
}

func TestStore(t *testing.T) {
	var s Store
	if _, ok := s.Response("a"); ok {
		t.Error("an answer before any")
	}
	s.Upcall(up("a", "1", 9))
	s.Upcall(up("a", "2", 3)) // the last, whatever its serial
	s.Upcall(up("a", "", 0))  // expiry removes nothing
	if u, ok := s.Response("a"); !ok || string(u.Reply.Answer) != "2" {
		t.Errorf("stored %+v, %v", u, ok)
	}
}

// The callbacks are used from many goroutines at once.
func TestCallbacksConcurrent(t *testing.T) {
	var s Store
	f, err := NewFilter(s.Upcall, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCounter(f.Upcall)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				salt := string(rune('a' + j%5))
				_ = c.Register(salt) // another may have
				c.Upcall(up(salt, "1", int64(i)))
				c.AllAnswered()
				f.Consistent(salt)
				s.Response(salt)
				if j%7 == 0 {
					c.Upcall(up(salt, "", 0))
				}
			}
		})
	}
	wg.Wait()
}
