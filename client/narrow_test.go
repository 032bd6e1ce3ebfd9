package client_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

func TestParseSample(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want client.Sample
	}{
		{"1", client.Sample{Count: 1}},
		{"500", client.Sample{Count: 500}},
		{"10%", client.Sample{Hundredths: 1000}},
		{"100%", client.Sample{Hundredths: 10000}},
		{"0.25%", client.Sample{Hundredths: 25}},
		{"12.5%", client.Sample{Hundredths: 1250}},
	} {
		got, err := client.ParseSample(tt.in)
		if err != nil || got != tt.want || got.String() != tt.in {
			t.Errorf("ParseSample(%q) = %+v, %q, %v; want %+v", tt.in, got, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "0", "-1", "%", "0%", "0.00%", "100.01%", "101%", "1.234%", "x", "5 %", "1e3", "99999999999999999999", "300%", "+5%"} {
		if got, err := client.ParseSample(in); call.CodeOf(err) != call.Invalid {
			t.Errorf("ParseSample(%q) = %+v, %v; want an error", in, got, err)
		}
	}
}

// Known samples: the algorithm is documented and must not change.
func TestSampleIsFixed(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("web%02d", i+1))
	}
	for _, tt := range []struct {
		s    client.Sample
		want string
	}{
		{client.Sample{Count: 3}, "web05 web11 web20"},
		{client.Sample{Count: 3, Seed: 7}, "web03 web14 web19"},
		{client.Sample{Hundredths: 1000, Seed: math.MaxUint64}, "web06 web08"},
	} {
		if got := strings.Join(tt.s.Of(names), " "); got != tt.want {
			t.Errorf("%s with seed %d = %q; want %q", tt.s, tt.s.Seed, got, tt.want)
		}
	}
}

func TestSample(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("n%03d", i))
	}
	before := slices.Clone(names)
	for _, tt := range []struct {
		s    client.Sample
		want int
	}{
		{client.Sample{}, 1000},
		{client.Sample{Count: 1}, 1},
		{client.Sample{Count: 5000}, 1000},
		{client.Sample{Hundredths: 1}, 1},
		{client.Sample{Hundredths: 1000}, 100},
		{client.Sample{Hundredths: 1001}, 101},
		{client.Sample{Hundredths: 10000}, 1000},
	} {
		got := tt.s.Of(names)
		if len(got) != tt.want || !slices.IsSorted(got) {
			t.Errorf("%s of 1,000 = %d names, sorted %v; want %d", tt.s, len(got), slices.IsSorted(got), tt.want)
		}
	}
	if !slices.Equal(names, before) {
		t.Error("Of changes the names")
	}
	// The larger holds the smaller, another seed gives others, one name less changes one at most.
	small, large := client.Sample{Count: 50, Seed: 3}.Of(names), client.Sample{Count: 80, Seed: 3}.Of(names)
	for _, n := range small {
		if !slices.Contains(large, n) {
			t.Errorf("%s is in the sample of 50 and not in that of 80", n)
		}
	}
	if slices.Equal(small, client.Sample{Count: 50, Seed: 4}.Of(names)) {
		t.Error("two seeds give the same sample")
	}
	less := client.Sample{Count: 50, Seed: 3}.Of(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == small[7] }))
	others := 0
	for _, n := range less {
		if !slices.Contains(small, n) {
			others++
		}
	}
	if others != 1 {
		t.Errorf("a name less changes %d names; want 1", others)
	}
}

// What narrows a target is asked for, and held against the answer.
func TestNarrowed(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		opt          client.Options
		says         *apipb.ResolveResponse
		asked        *apipb.ResolveRequest // of what the options make
		names        string
		code         call.Code
		words        string
	}{
		{
			name: "a condition", target: "web*", opt: client.Options{Where: `facts.os == "x"`},
			says: &apipb.ResolveResponse{Names: "web1", Unjudged: "web[2,3]"}, asked: &apipb.ResolveRequest{Where: `facts.os == "x"`}, names: "web1",
		},
		{
			name: "a condition nobody fits", target: "web*", opt: client.Options{Where: "false"}, says: &apipb.ResolveResponse{Unjudged: "web2"},
			code: call.NoMatch, words: `no minion matches "web*" with --where "false"; 1 could not be judged, as facts are missing: web2`,
		},
		{name: "a condition without words", target: "web*", opt: client.Options{Where: " "}, code: call.Invalid, words: "empty"},
		{
			name: "names", target: "*", opt: client.Options{Narrow: true, Among: []string{"WEB2", "web1", "web1"}},
			says: &apipb.ResolveResponse{Names: "web[1,2]"}, asked: &apipb.ResolveRequest{Narrow: true, Among: "web[1,2]"}, names: "web1 web2",
		},
		{
			name: "a name that is none", target: "*", opt: client.Options{Narrow: true, Among: []string{"web*"}}, code: call.Invalid, words: "web*",
		},
		{
			name: "a machine that was not asked about", target: "*", opt: client.Options{Narrow: true, Among: []string{"web1"}},
			says: &apipb.ResolveResponse{Names: "web[1,2]"}, code: call.Internal, words: `"web2", which is not among those`,
		},
		{
			name: "one that a condition added", target: "web*", opt: client.Options{Where: "true"}, says: &apipb.ResolveResponse{Names: "db1,web1"}, code: call.Internal, words: `"db1"`,
		},
		{
			name: "a sample", target: "*", opt: client.Options{Sample: client.Sample{Count: 1, Seed: 1}, Limit: 1},
			says: &apipb.ResolveResponse{Names: "web[1,2]"}, asked: &apipb.ResolveRequest{}, names: "web1",
		},
		{
			name: "a sample over the limit", target: "*", opt: client.Options{Sample: client.Sample{Count: 2}, Limit: 1},
			says: &apipb.ResolveResponse{Names: "web[1,2,3]"}, code: call.TooMany, words: "2 minions and the limit is 1",
		},
		{name: "a sample that is none", target: "*", opt: client.Options{Sample: client.Sample{Count: -1}}, code: call.Invalid, words: "sample"},
		{name: "no list", target: "*", opt: client.Options{Where: "true"}, says: &apipb.ResolveResponse{Names: "web1", Unjudged: "x["}, code: call.Internal, words: "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			var asked *apipb.ResolveRequest
			f.resolve = func(r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
				asked = r
				return tt.says, nil
			}
			r, err := resolveWith(t, f, tt.target, tt.opt)
			if call.CodeOf(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Fatalf("%v; want code %v and %q", err, tt.code, tt.words)
			}
			if got := strings.Join(r.Names, " "); got != tt.names {
				t.Errorf("names %q; want %q", got, tt.names)
			}
			if tt.asked != nil && (asked.Where != tt.asked.Where || asked.Narrow != tt.asked.Narrow || asked.Among != tt.asked.Among || asked.Limit != 0) {
				t.Errorf("asked %v; want %v", asked, tt.asked)
			}
		})
	}
}

func resolveWith(t *testing.T, f *fakeOverlord, expr string, opt client.Options) (client.Resolved, error) {
	t.Helper()
	opt.State = f.state(t)
	c, err := client.New(t.Context(), expr, opt)
	if err != nil {
		return client.Resolved{}, err
	}
	defer c.Close()
	return c.Resolve(t.Context())
}
