package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/module"
)

// Catalogue is what can be called on the machines of an overlord.
type Catalogue struct {
	// Schemas of the methods, sorted by name. Of a site's method that machines have in
	// several versions it is the one that most have, with the gravest effect and the
	// longest time-out of all.
	Schemas []module.Schema
	// Offered says which machines have the methods of sites, in which versions: by
	// name, and those that most have first.
	Offered []OfferedMethod
	// Disabled are modules of sites that cannot be called, and why.
	Disabled []DisabledModule
}

// OfferedMethod is one version of a site's method.
type OfferedMethod struct {
	Schema   module.Schema
	Names    string // folded; machines directly below the overlord
	Machines int    // all that have it, those below sub-overlords included
}

// DisabledModule is a module of a site that machines have and cannot use.
type DisabledModule struct {
	Name     string `json:"name"` // of its file; "*": all of them
	Reason   string `json:"reason"`
	Names    string `json:"machines"` // folded
	Machines int    `json:"count"`
}

// Catalogue asks what can be called. name is a module, a module.method, or empty for
// all.
func (c *Conn) Catalogue(ctx context.Context, name string) (Catalogue, error) {
	resp, err := c.Fleet.Modules(ctx, connect.NewRequest(&apipb.ModulesRequest{Name: name}))
	if err != nil {
		return Catalogue{}, fmt.Errorf("ask for the modules: %w", err)
	}
	var out Catalogue
	if out.Schemas, err = module.ParseSchemas(resp.Msg.GetModules()); err != nil {
		return Catalogue{}, call.Errorf(call.Internal, "the overlord's list of modules cannot be read: %v", err)
	}
	slices.SortFunc(out.Schemas, func(a, b module.Schema) int { return cmp.Compare(a.Name, b.Name) })
	for _, o := range resp.Msg.GetOffered() {
		one, err := module.ParseSchemas(slices.Concat([]byte("["), o.GetSchema(), []byte("]")))
		if err != nil || len(one) != 1 {
			return Catalogue{}, call.Errorf(call.Internal, "a method in the overlord's list cannot be read: %v", err)
		}
		out.Offered = append(out.Offered, OfferedMethod{Schema: one[0], Names: o.GetNames(), Machines: int(min(o.GetCount(), 1<<31))})
	}
	for _, d := range resp.Msg.GetDisabled() {
		out.Disabled = append(out.Disabled, DisabledModule{Name: d.GetName(), Reason: d.GetReason(), Names: d.GetNames(), Machines: int(min(d.GetCount(), 1<<31))})
	}
	return out, nil
}

// Modules gives the schemas of Catalogue.
func (c *Conn) Modules(ctx context.Context, name string) ([]module.Schema, error) {
	cat, err := c.Catalogue(ctx, name)
	return cat.Schemas, err
}

// Schema gives the schema of "module.method", from the second time on out of
// memory. When there is none, the error has the code NotFound and names the
// methods of that module.
func (c *Conn) Schema(ctx context.Context, method string) (module.Schema, error) {
	if err := call.CheckMethod(method); err != nil {
		return module.Schema{}, call.Errorf(call.Invalid, "%v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.schemas == nil {
		if err := c.learn(ctx); err != nil {
			return module.Schema{}, err
		}
	}
	s, ok := c.schemas[method]
	if !ok {
		return module.Schema{}, call.Errorf(call.NotFound, "there is no method %q; %s", method, c.hint(method))
	}
	return s, nil
}

// learn asks for all schemas; c.mu is held.
func (c *Conn) learn(ctx context.Context) error {
	all, err := c.Catalogue(ctx, "")
	if err != nil {
		return err
	}
	c.schemas, c.versions = make(map[string]module.Schema, len(all.Schemas)), make(map[string][]module.Schema)
	for _, s := range all.Schemas {
		c.schemas[s.Name] = s
	}
	for _, o := range all.Offered {
		c.versions[o.Schema.Name] = append(c.versions[o.Schema.Name], o.Schema)
	}
	return nil
}

// Versions gives every version of a method that machines have, the one that most
// have first; of a method that comes with agents its schema. Errors are those of
// Schema.
func (c *Conn) Versions(ctx context.Context, method string) ([]module.Schema, error) {
	s, err := c.Schema(ctx, method)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.versions[method]; len(v) > 0 {
		return slices.Clone(v), nil
	}
	return []module.Schema{s}, nil
}

// ParseArgs turns the words of a command line into the arguments of a method: see
// module.ParseArgsOf.
func (c *Conn) ParseArgs(ctx context.Context, method string, words []string) ([]byte, error) {
	versions, err := c.Versions(ctx, method)
	if err != nil {
		return nil, err
	}
	return module.ParseArgsOf(versions, words)
}

// Validate checks the arguments of a method, a JSON object: they have to fit one of
// the versions that machines have.
func (c *Conn) Validate(ctx context.Context, method string, args []byte) error {
	versions, err := c.Versions(ctx, method)
	if err != nil {
		return err
	}
	return module.ValidateAny(versions, args)
}

// hint names what is near a method that does not exist.
func (c *Conn) hint(method string) string {
	prefix := method[:strings.IndexByte(method, '.')+1]
	var near []string
	for name := range c.schemas {
		if strings.HasPrefix(name, prefix) {
			near = append(near, name)
		}
	}
	if len(near) == 0 {
		return "list them with: dominion modules"
	}
	slices.Sort(near)
	return "there are: " + strings.Join(near, ", ")
}
