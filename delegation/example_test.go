package delegation_test

import (
	"fmt"

	"dominion/delegation"
	"dominion/target"
)

// What an overlord does with an order for "web*", when its sub-overlord dc1 is down.
func ExampleIndex_Routes() {
	m, err := delegation.Parse([]byte("{dc1: {web1: {}, web2: {}}, dc2: {rack1: {web2: {}}}, web3: {}}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	index := m.Index()
	e, err := target.Parse("web*")
	if err != nil {
		fmt.Println(err)
		return
	}
	named, err := index.Match(e, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	routed := index.Routes(named.Names, func(hop string) bool { return hop != "dc1" })
	groups := delegation.Group(routed.Paths)
	fmt.Println("direct:", groups.Direct)
	for _, h := range groups.Hops {
		fmt.Println("by", h.Name+":", h.Rest)
	}
	for _, b := range routed.Behind {
		fmt.Println(b.Name, "is unreachable behind", b.Hop)
	}
	// Output:
	// direct: [web3]
	// by dc2: [rack1/web2]
	// web1 is unreachable behind dc1
}
