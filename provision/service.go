package provision

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dominion/audit"
	"dominion/nodescript"
)

// Bounds of what nodes cost.
const (
	MaxNodes      = 20_000
	MaxHeld       = 1_000              // nodes that are not approved
	MaxHeldSource = 50                 // of these from one address
	HeldFor       = 7 * 24 * time.Hour // without a word, when there is no room for others
	NonceLife     = time.Hour
	nonceEvery    = 2 * time.Second  // of one node
	contactEvery  = 10 * time.Second // between writes of when a node that gets nothing was heard of
	meetBurst     = 500              // machines that become known at once
	meetEvery     = 20 * time.Millisecond
	maxAtOnce     = 1024             // requests that are worked on
	maxOfNode     = 16               // of these of one node
	recordTime    = 10 * time.Second // for the record of a refusal
)

// Config is what a Service needs. Everything is required unless it says otherwise.
type Config struct {
	Store    Store
	Scripts  Assembler
	Statedir string   // the directory of files
	States   []string // in which nodes may ask for scripts
	Approve  []Rule   // that approve nodes at first contact; empty: an operator does
	Names    Pattern

	// Peer gives the name of the minion whose certificate a connection shows; the
	// error says why there is none that counts, for the log alone.
	Peer func(r *http.Request) (name string, err error)
	// Proven is told of each request whose node has proved itself. Nil: nobody is.
	Proven func(r *http.Request)
	// Token makes a join token for the minion of a node, which it may use once, in
	// the place of one that it had.
	Token func(ctx context.Context, node string) (text, id string, err error)
	// Above looks up files that are not here. Nil: there is nobody to ask.
	Above Above
	// IPXE writes the script that a node boots with.
	IPXE func(b BootScript) []byte
	// At gives the addresses, host:port, of provision/1 and of /boot/ for who
	// reached this host at an address.
	At  func(reached netip.Addr) (server, boot string)
	Pin string // of the fleet's root
	// Legacy says how the old protocol is served; nil: it is not.
	Legacy *Legacy

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: discarded
}

// Assembler makes scripts; *nodescript.Assembler is the real one.
type Assembler interface {
	Assemble(ctx context.Context, n nodescript.Node, state string) (*nodescript.Script, error)
}

// Rule approves nodes at their first contact.
type Rule struct {
	MAC     string       // glob of hardware addresses; empty: any
	Network netip.Prefix // of the asking address; invalid: any
}

// covers says whether the rule approves a node.
func (r Rule) covers(hwaddr string, source netip.Addr) bool {
	if r.Network.IsValid() && !r.Network.Contains(source) {
		return false
	}
	if r.MAC == "" {
		return true
	}
	ok, err := path.Match(strings.ToUpper(r.MAC), hwaddr)
	return err == nil && ok
}

// Service answers nodes. Its methods may be called at the same time.
type Service struct {
	cfg   Config
	root  *os.Root
	sums  sums
	seen  seen         // files of which the audit log says already that a node got them
	meets *pace        // of machines that are not known yet
	lacks *pace        // of what is asked for and is not there, on the log
	meter *audit.Meter // of refusals and claims on the audit log
	asked *audit.Meter // of what nodes asked for that is not there

	approve  atomic.Pointer[approval]
	times    legacyTimes
	old      legacySeen
	at       addresses
	looks    *pace        // of the nodes of addresses
	messages *audit.Meter // of what nodes say for the log

	mu     sync.Mutex
	all    int            // requests that are worked on
	ofNode map[string]int // of these, by node
}

// New checks the configuration and opens the directory of files; the caller
// closes the Service.
func New(cfg Config) (*Service, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Proven == nil {
		cfg.Proven = func(*http.Request) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, s := range cfg.States {
		if _, err := nodescript.ParseState(s); err != nil {
			return nil, fmt.Errorf("states: %w", err)
		}
	}
	if err := checkRules(cfg.Approve); err != nil {
		return nil, err
	}
	if err := cfg.Names.Check(); err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	root, err := os.OpenRoot(cfg.Statedir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of node scripts and files: %w", err)
	}
	s := &Service{
		cfg: cfg, root: root, meets: &pace{burst: meetBurst, every: meetEvery}, looks: &pace{burst: lookBurst, every: lookEvery},
		lacks: &pace{burst: 4, every: time.Minute}, meter: audit.NewMeter(cfg.Now), asked: audit.NewMeter(cfg.Now),
		messages: audit.NewMeter(cfg.Now), times: defaultLegacyTimes(), ofNode: make(map[string]int),
	}
	s.approve.Store(&approval{cfg.Approve})
	return s, nil
}

// approval is the rules that approve nodes at first contact.
type approval struct{ rules []Rule }

func checkRules(rules []Rule) error {
	for _, r := range rules {
		if _, err := path.Match(strings.ToUpper(r.MAC), ""); err != nil {
			return fmt.Errorf("approve: mac %q: %w", r.MAC, err)
		}
	}
	return nil
}

// SetApprove takes other rules for approval, from now on: nodes that are held
// stay so, and those that a rule approved are approved.
func (s *Service) SetApprove(rules []Rule) error {
	if err := checkRules(rules); err != nil {
		return err
	}
	s.approve.Store(&approval{slices.Clone(rules)})
	return nil
}

// Close ends the use of the directory of files.
func (s *Service) Close() error { return s.root.Close() }

// Handler serves provision/1, whose paths begin with Path. It must get them as
// they came: an http.ServeMux in front of it would answer those with ".." in
// them, and nobody would hear of it.
func (s *Service) Handler() http.Handler {
	script, join, result := s.handle("node.script", s.script), s.handle("node.join", s.join), s.handle("node.result", s.result)
	file := s.handle("node.file", s.file)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := strings.TrimPrefix(r.URL.Path, Path)
		get := r.Method == http.MethodGet || r.Method == http.MethodHead
		isFile := strings.HasPrefix(what, filesPath)
		switch post := r.Method == http.MethodPost; {
		case isFile && get:
			file(w, r)
		case what == "script" && post:
			script(w, r)
		case what == "join" && post:
			join(w, r)
		case what == "result" && post:
			result(w, r)
		case isFile, what == "script", what == "join", what == "result":
			(&Refusal{Status: http.StatusMethodNotAllowed, Code: "invalid", Detail: "not with this method"}).write(w)
		default:
			(&Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: "there is nothing of that name in provision/1"}).write(w)
		}
	})
}

// filesPath is where files begin below Path.
const filesPath = "files/"

// Path is where provision/1 begins on the overlord's port.
const Path = "/provision/v1/"

// handle answers with what a part of the protocol refuses, if it does.
func (s *Service) handle(action string, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.refuse(r, action, err).write(w)
		}
	}
}

// source gives the address that a request came from.
func source(r *http.Request) (netip.Addr, error) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, denied("", "it did not come over the network")
	}
	return ap.Addr().Unmap(), nil
}

// reached gives the address of ours that a request came to.
func reached(r *http.Request) netip.Addr {
	a, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if a == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// admit is enter for a node that has proved itself.
func (s *Service) admit(r *http.Request, node string) (leave func(), err error) {
	leave, err = s.enter(node)
	if err == nil {
		s.cfg.Proven(r)
	}
	return leave, err
}

// enter takes a place for a request, which leave gives back: of a node, or, when
// that is empty, of anybody.
func (s *Service) enter(node string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxAtOnce || node != "" && s.ofNode[node] >= maxOfNode {
		return nil, &Refusal{Status: http.StatusTooManyRequests, Code: "busy", Detail: "too many requests at once; ask again", node: node, quiet: true}
	}
	s.all++
	s.ofNode[node]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.ofNode[node]--; s.ofNode[node] == 0 {
			delete(s.ofNode, node)
		}
	}, nil
}

// proof is what a request shows of who asks.
type proof struct {
	hwaddrs []string
	nonce   string
	source  netip.Addr
}

// booting gives the node that a nonce proves to be asking while it boots.
func (s *Service) booting(v View, p proof) (Node, Nonce, error) {
	if p.nonce == "" {
		return Node{}, Nonce{}, denied(first(p.hwaddrs), "without a nonce")
	}
	nonce, ok, err := v.Nonce(sha256.Sum256([]byte(p.nonce)))
	if err != nil {
		return Node{}, Nonce{}, err
	}
	if !ok {
		return Node{}, Nonce{}, denied(first(p.hwaddrs), "the nonce is unknown, or was withdrawn")
	}
	node, ok, err := v.Node(nonce.Node)
	switch {
	case err != nil:
		return Node{}, Nonce{}, err
	case !ok:
		return Node{}, Nonce{}, denied(nonce.Node, "the node is not known any more")
	case nonce.Source != p.source:
		return Node{}, Nonce{}, denied(node.Name, fmt.Sprintf("the nonce was given to %s", nonce.Source))
	case !slices.Contains(p.hwaddrs, node.HWAddr):
		return Node{}, Nonce{}, denied(node.Name, "the nonce is that of another hardware address")
	case node.held():
		return Node{}, Nonce{}, denied(node.Name, "the node is not approved")
	case node.Boot != BootProvision:
		return Node{}, Nonce{}, denied(node.Name, "the node is not set to provision")
	}
	return node, nonce, nil
}

// bootingNow is booting for a nonce that opens something still.
func (s *Service) bootingNow(v View, p proof) (Node, Nonce, error) {
	node, nonce, err := s.booting(v, p)
	if err != nil {
		return Node{}, Nonce{}, err
	}
	switch now := s.cfg.Now(); {
	case !nonce.Used.IsZero():
		return Node{}, Nonce{}, denied(node.Name, "the nonce was used: its machine has enrolled")
	case !nonce.open(now):
		return Node{}, Nonce{}, denied(node.Name, "the nonce expired at "+nonce.Expires.UTC().Format(time.RFC3339))
	}
	return node, nonce, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// running gives the node whose minion's certificate a connection shows.
func (s *Service) running(v View, r *http.Request) (Node, error) {
	name, err := s.cfg.Peer(r)
	if err != nil {
		return Node{}, denied("", err.Error())
	}
	node, ok, err := v.Node(name)
	switch {
	case err != nil:
		return Node{}, err
	case !ok:
		return Node{}, denied(name, "no node has this name")
	case node.held():
		return Node{}, denied(name, "the node is not approved")
	}
	return node, nil
}
