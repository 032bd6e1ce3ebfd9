package where

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"dominion/module"
)

// Limits; see the package documentation.
const (
	MaxText    = 4 << 10 // bytes of an expression
	maxNodes   = 512
	maxDepth   = 32
	maxRegexp  = 1000    // instructions
	maxCost    = 100_000 // of judging one machine
	maxMemory  = 1 << 20 // bytes, of judging one machine
	checkEvery = 100     // rounds of a macro between looks at the context
)

// ErrCondition is wrapped by every error about an expression.
var ErrCondition = errors.New("not a condition")

// Language is what expressions are checked against. It is safe for concurrent use.
type Language struct{ objects map[string]*object }

// New makes the language in which machines have these facts.
func New(facts []module.Field) *Language {
	l := &Language{objects: make(map[string]*object)}
	l.add(factsPath, facts)
	return l
}

// Expr is an expression that was checked. It is safe for concurrent use.
type Expr struct {
	text  string
	facts *object
	prog  cel.Program
	named []string // groups
	all   bool
}

// Compile reads and checks an expression. Errors wrap ErrCondition.
func (l *Language) Compile(text string) (*Expr, error) {
	if strings.TrimSpace(text) == "" {
		return nil, refusef("it is empty; write for example facts.os == \"debian\"")
	}
	if len(text) > MaxText {
		return nil, refusef("%d bytes are more than %d", len(text), MaxText)
	}
	if !utf8.ValidString(text) {
		return nil, refusef("it is not UTF-8")
	}
	reg, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("make the language of conditions: %w", err)
	}
	p := &provider{Registry: reg, objects: l.objects}
	env, err := cel.NewEnv(
		cel.CustomTypeAdapter(p.Registry), cel.CustomTypeProvider(p),
		cel.Variable("name", cel.StringType), cel.Variable("groups", cel.ListType(cel.StringType)),
		cel.Variable("facts", cel.ObjectType(typeName(factsPath))),
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxText), cel.ParserRecursionLimit(maxDepth*4),
		cel.ExpressionNodeLimit(maxNodes), cel.ExpressionNestingDepthLimit(maxDepth), cel.RegexProgramSizeLimit(maxRegexp),
	)
	if err != nil {
		return nil, fmt.Errorf("make the language of conditions: %w", err)
	}
	tree, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, p.explain(text, issues)
	}
	if t := tree.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, refusef("its value is %s, not true or false; compare it with something", typeWord(t))
	}
	prog, err := env.Program(tree, cel.CostLimit(maxCost), cel.MemoryLimit(maxMemory), cel.InterruptCheckFrequency(checkEvery),
		cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, refusef("%s", oneLine(err.Error()))
	}
	e := &Expr{text: text, facts: l.objects[typeName(factsPath)].only(used(tree)), prog: prog}
	e.named, e.all = groupsOf(tree)
	return e, nil
}

// used gives the facts that an expression speaks of; nil: it may be all.
func used(tree *cel.Ast) map[string]bool {
	out := make(map[string]bool)
	for _, n := range ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), ast.KindMatcher(ast.IdentKind)) {
		if n.AsIdent() != factsPath {
			continue
		}
		above, ok := n.Parent()
		if !ok || above.Kind() != ast.SelectKind {
			return nil
		}
		out[above.AsSelect().FieldName()] = true
	}
	return out
}

// groupsOf gives the groups that an expression asks for by name, each once and
// sorted, and whether it looks at the list in another way.
func groupsOf(tree *cel.Ast) (named []string, all bool) {
	for _, n := range ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), ast.KindMatcher(ast.IdentKind)) {
		if n.AsIdent() != "groups" {
			continue
		}
		name, ok := member(n)
		if !ok {
			all = true
			continue
		}
		named = append(named, name)
	}
	slices.Sort(named)
	return slices.Compact(named), all
}

// member gives X when the list stands in "X" in groups.
func member(list ast.NavigableExpr) (string, bool) {
	in, ok := list.Parent()
	if !ok || in.Kind() != ast.CallKind || in.AsCall().FunctionName() != operators.In {
		return "", false
	}
	what := in.AsCall().Args()[0]
	if what.Kind() != ast.LiteralKind {
		return "", false
	}
	name, ok := what.AsLiteral().Value().(string)
	return name, ok
}

// String gives the expression's text.
func (e *Expr) String() string { return e.text }

// Groups gives the groups that the expression asks for by name, as in
// "web" in groups: each once and sorted, as they are written. all says that it
// looks at the list of a machine's groups in another way, too.
func (e *Expr) Groups() (named []string, all bool) { return e.named, e.all }

// Machine is what is known about one machine.
type Machine struct {
	Name   string
	Groups []string // that it is in
	Facts  []byte   // a JSON object; empty: it never sent any
}

// Judge says whether a machine matches. lacks says why it could not be judged,
// as when it lacks a fact; then it does not match. An error means that nobody
// can be judged any more: ctx has ended.
func (e *Expr) Judge(ctx context.Context, m Machine) (matches bool, lacks, err error) {
	facts, err := e.facts.decode(m.Facts)
	if err != nil {
		return false, fmt.Errorf("its facts cannot be read: %w", err), nil
	}
	if m.Groups == nil {
		m.Groups = []string{}
	}
	out, _, err := e.prog.ContextEval(ctx, map[string]any{"name": m.Name, "groups": m.Groups, "facts": facts})
	if ctx.Err() != nil {
		return false, nil, context.Cause(ctx)
	}
	if err != nil {
		return false, errors.New(oneLine(err.Error())), nil
	}
	return out == types.True, nil, nil
}

// refusal says what is wrong with an expression.
type refusal string

func (r refusal) Error() string { return "--where: " + string(r) }
func (refusal) Unwrap() error   { return ErrCondition }

func refusef(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// typeWord says in words what a value is.
func typeWord(t *cel.Type) string {
	switch t.Kind() {
	case types.StringKind:
		return "a text"
	case types.IntKind, types.UintKind, types.DoubleKind:
		return "a number"
	case types.ListKind:
		return "a list"
	case types.StructKind:
		return "an object"
	case types.TimestampKind:
		return "a time"
	}
	return t.String()
}
