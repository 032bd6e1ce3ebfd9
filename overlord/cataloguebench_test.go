package overlord

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"dominion/module"
)

// BenchmarkCatalogue unites what 5,000 machines offer, who have two different sets of
// 50 methods.
func BenchmarkCatalogue(b *testing.B) {
	var c catalogue
	c.init(&Overlord{})
	for i := range 2 {
		o := &offer{}
		for m := range 50 {
			o.Methods = append(o.Methods, module.Schema{
				Name: fmt.Sprintf("site%d.do", m), Doc: "Does it.", Effect: module.Read, Timeout: fmt.Sprintf("%ds", 10+i),
				Fields: []module.Field{{Name: "a", Type: "string", Doc: "x"}, {Name: "b", Type: "int", Doc: "y"}},
			})
		}
		c.offers[sha256.Sum256([]byte{byte(i)})] = o
	}
	for m := range 5000 {
		c.machines[fmt.Sprintf("web%04d", m)] = sha256.Sum256([]byte{byte(m % 2)})
	}
	b.ReportAllocs()
	for b.Loop() {
		if o := c.compose(); len(o.methods) != 50 || len(o.methods["site1.do"].versions) != 2 {
			b.Fatal(len(o.methods))
		}
	}
}
