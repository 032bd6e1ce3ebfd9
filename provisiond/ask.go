package provisiond

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"dominion/call"
	"dominion/pki"
)

// script is one that arrived whole.
type script struct {
	text   []byte
	digest digest
	node   string // what the overlord calls this machine; may be empty
	server string // host:port of who gave it
	join   []byte // content of the file DOMINION_JOIN; state init
}

type scriptRequest struct {
	HWAddr []string `json:"hwaddr"`
	State  string   `json:"state"`
	Args   []string `json:"args"`
	Nonce  string   `json:"nonce,omitempty"`
}

type joinRequest struct {
	HWAddr []string `json:"hwaddr"`
	Nonce  string   `json:"nonce"`
}

type joinAnswer struct {
	Token     string   `json:"token"`
	Pin       string   `json:"pin"`
	Overlords []string `json:"overlords"`
	Name      string   `json:"name"`
}

type resultRequest struct {
	HWAddr []string `json:"hwaddr"`
	State  string   `json:"state"`
	Nonce  string   `json:"nonce,omitempty"`
	Digest string   `json:"digest"` // of the script, as in its header
	Exit   int      `json:"exit"`
	TookMS int64    `json:"took_ms"`
	Detail string   `json:"detail,omitempty"`
}

// fetch asks one server for the script, and in init for what the minion needs to
// enrol.
func (l *link) fetch(ctx context.Context, server string, args []string) (*script, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no script within %s", askTime))
	defer cancel()
	if args == nil {
		args = []string{}
	}
	resp, err := l.post(ctx, server, "/provision/v1/script",
		scriptRequest{HWAddr: l.HWAddr, State: l.State, Args: args, Nonce: l.Nonce}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	s, err := readScript(ctx, resp)
	if err != nil {
		return nil, err
	}
	s.server = server
	if l.State == stateInit {
		if s.join, err = l.askJoin(ctx, server); err != nil {
			return nil, fmt.Errorf("ask for a join token: %w", err)
		}
	}
	return s, nil
}

// readScript takes a reply that is whole, and nothing of any other.
func readScript(ctx context.Context, resp *http.Response) (*script, error) {
	switch n := resp.ContentLength; {
	case n < 0:
		return nil, fmt.Errorf("%w: it does not say its length", errNotWhole)
	case n > maxScript:
		return nil, fmt.Errorf("a script of %d bytes is larger than the %d that are taken", n, maxScript)
	}
	want, err := parseDigest(resp.Header.Get("Digest"))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errNotWhole, err)
	}
	text := make([]byte, resp.ContentLength)
	body := newPatient(resp.Body, idleTime)
	defer body.stop()
	n, err := io.ReadFull(body, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes: %v", errNotWhole, n, len(text), cause(ctx, err))
	}
	if digest(sha256.Sum256(text)) != want {
		return nil, fmt.Errorf("%w: its digest is another", errNotWhole)
	}
	return &script{text: text, digest: want, node: printable(resp.Header.Get("Dominion-Node"))}, nil
}

// askJoin asks for the join token, and gives the file DOMINION_JOIN.
func (l *link) askJoin(ctx context.Context, server string) ([]byte, error) {
	resp, err := l.post(ctx, server, "/provision/v1/join", joinRequest{HWAddr: l.HWAddr, Nonce: l.Nonce}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body := newPatient(resp.Body, idleTime)
	defer body.stop()
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err != nil {
		return nil, cause(ctx, err)
	}
	j, err := parseJoin(b)
	if err != nil {
		return nil, err
	}
	return j.file(), nil
}

// errJoin is wrapped by every error about the answer with the join token.
var errJoin = errors.New("bad join answer")

// parseJoin reads and checks the answer with the join token. None of its texts
// needs quotes in a shell.
func parseJoin(b []byte) (joinAnswer, error) {
	var j joinAnswer
	if len(b) > maxAnswer {
		return j, fmt.Errorf("%w: more than %d bytes", errJoin, maxAnswer)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return j, fmt.Errorf("%w: %v", errJoin, err)
	}
	if name, err := call.ParseName(j.Name); err != nil || name != j.Name {
		return j, fmt.Errorf("%w: %.80q is no name of a machine", errJoin, j.Name)
	}
	if err := pki.CheckPin(j.Pin); err != nil {
		return j, fmt.Errorf("%w: %v", errJoin, err)
	}
	if len(j.Token) > maxNonce || !plainWord(j.Token) {
		return j, fmt.Errorf("%w: the token is none", errJoin)
	}
	if len(j.Overlords) == 0 || len(j.Overlords) > maxServers {
		return j, fmt.Errorf("%w: it names %d overlords", errJoin, len(j.Overlords))
	}
	for _, o := range j.Overlords {
		if len(o) > 300 || !plainWord(o) || strings.Contains(o, ",") {
			return j, fmt.Errorf("%w: %.80q is no address", errJoin, o)
		}
	}
	return j, nil
}

func (j joinAnswer) file() []byte {
	return fmt.Appendf(nil, "DOMINION_NAME=%s\nDOMINION_PIN=%s\nDOMINION_OVERLORDS=%s\nDOMINION_TOKEN=%s\n",
		j.Name, j.Pin, strings.Join(j.Overlords, ","), j.Token)
}

// result tells the server what became of its script.
func (l *link) result(ctx context.Context, s *script, r ran) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("no answer within 30 s"))
	defer cancel()
	resp, err := l.post(ctx, s.server, "/provision/v1/result", resultRequest{
		HWAddr: l.HWAddr, State: l.State, Nonce: l.Nonce, Digest: s.digest.String(),
		Exit: r.exit, TookMS: r.took.Milliseconds(), Detail: printable(r.detail),
	}, http.StatusNoContent)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// patient reads a body that must not stay silent.
type patient struct {
	r    io.ReadCloser
	idle time.Duration
	t    *time.Timer
}

func newPatient(r io.ReadCloser, idle time.Duration) *patient {
	return &patient{r: r, idle: idle, t: time.AfterFunc(idle, func() { _ = r.Close() })}
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if !p.t.Reset(p.idle) && err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("nothing came for %s", p.idle)
	}
	return n, err
}

func (p *patient) stop() { p.t.Stop() }

// address gives HOST:PORT of a server that may be without a port.
func address(server, port string) string {
	if _, _, err := net.SplitHostPort(server); err == nil {
		return server
	}
	return net.JoinHostPort(strings.Trim(server, "[]"), port)
}
