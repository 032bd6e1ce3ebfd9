package target_test

import (
	"fmt"

	"dominion/target"
)

func ExampleFold() {
	folded := target.Fold([]string{"web02", "web01", "web03", "rack1-n9", "rack2-n9", "db1", "db2"})
	fmt.Println(folded)
	names, err := target.Expand(folded)
	fmt.Println(names, err)
	// Output:
	// db[1,2],rack[1,2]-n9,web[01-03]
	// [db1 db2 rack1-n9 rack2-n9 web01 web02 web03] <nil>
}

func ExampleParse() {
	e, err := target.Parse("web*,db[1,2]!web2")
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := e.Resolve(target.Env{Known: []string{"db1", "web1", "web2", "web3"}})
	fmt.Println(res.Names, res.Unknown, err)
	_, err = target.Parse("web[01-")
	fmt.Println(err)
	// Output:
	// [db1 web1 web3] [db2] <nil>
	// target "web[01-": position 4: the bracket is not closed; write "]" after it
}
