package module

import (
	"context"
	"errors"

	"dominion/call"
)

// ErrLater is what a method returns whose call ends only when the agent has
// been started again, such as one that restarts the machine. Before it lets
// that happen it leaves a note with Env.Keep; afterwards MethodOptions.Resume
// makes the answer. Until then nobody is answered, and nothing of the call runs.
var ErrLater = errors.New("the call ends when the agent has been started again")

// MaxNote bounds what Env.Keep is given, in bytes.
const MaxNote = 4 << 10

// Resumes says whether a call of the method can end after the agent was
// started again.
func (m Method) Resumes() bool { return m.options.Resume != nil }

// Resume gives the answer of a call whose method returned ErrLater, as Run
// does. An error that is ErrLater says that it is still to come.
func (m Method) Resume(ctx context.Context, env *Env, note []byte) (output []byte, err error) {
	if m.options.Resume == nil {
		return nil, call.Errorf(call.Internal, "%s does not go on after a restart", m.name)
	}
	if env == nil {
		env = &Env{}
	}
	resumed := m
	resumed.run = func(ctx context.Context, env *Env, _ any) (any, bool, error) {
		out, err := m.options.Resume(ctx, env, note)
		return out, out == nil, err
	}
	return resumed.answer(ctx, env, nil)
}
