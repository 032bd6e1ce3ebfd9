package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/target"
)

// Orders go by the map to machines below any number of overlords, and are used
// as orders to direct ones are. The results come as machines answer.
func ExampleClient_Call_delegate() {
	site := exampleSite() // a state directory, and a map's file
	defer site.end()
	ctx := context.Background()

	c, err := client.New(ctx, "web*", client.Options{
		Endpoint: client.Endpoint{State: site.state}, // or none: as the dominion command finds it
		Delegate: true, MapFile: site.mapFile,        // without a file: the overlord's own map
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	job, err := c.Call(ctx, "test.ping", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer job.Close()
	for r, err := range job.Results() {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(r.Machine, r.Status(), string(r.Output))
	}
	// Output:
	// web1 answered {"ok":true}
	// web2 answered {"ok":true}
}

// All results at once, by machine.
func ExampleJob_ByMachine() {
	site := exampleSite()
	defer site.end()
	ctx := context.Background()

	c, err := client.New(ctx, "web*!web2", client.Options{Endpoint: client.Endpoint{State: site.state}, Delegate: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	job, err := c.Call(ctx, "test.ping", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	results, err := job.ByMachine()
	fmt.Println(len(results), results["web1"].Status(), err)
	// Output: 1 answered <nil>
}

// site is what the examples speak to: an overlord with two machines below dc1.
type site struct {
	testing.TB
	dir, state, mapFile string
	clean               []func()
}

func exampleSite() *site {
	s := &site{}
	var err error
	if s.dir, err = os.MkdirTemp("", "example"); err != nil {
		panic(err)
	}
	s.mapFile = filepath.Join(s.dir, "map")
	write(s, s.mapFile, []byte("dc1:\n    web1: {}\n    web2: {}\n"))
	f := newFake(s, "dc1", "web1", "web2")
	f.resolve = func(r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
		e, err := target.Parse(r.GetTarget())
		if err != nil || !r.GetDelegate() {
			return nil, err
		}
		res, err := e.Resolve(target.Env{Known: f.known})
		return &apipb.ResolveResponse{Names: target.Fold(res.Names), Unknown: target.Fold(res.Unknown)}, err
	}
	s.state = f.state(s)
	return s
}

func (s *site) end() {
	for _, f := range slices.Backward(s.clean) {
		f()
	}
	if err := os.RemoveAll(s.dir); err != nil {
		panic(err)
	}
}

func (s *site) Helper()           {}
func (s *site) Cleanup(f func())  { s.clean = append(s.clean, f) }
func (s *site) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
func (s *site) TempDir() string   { return s.dir }
