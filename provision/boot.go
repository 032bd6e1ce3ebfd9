package provision

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"dominion/api/auditpb"
)

// BootScript is what the script says that a node boots with.
type BootScript struct {
	Boot   Boot
	Node   string // empty with BootHold: who asks may not know more
	HWAddr string
	Why    string // with BootHold: for people
	// What follows is for BootProvision.
	VNFS   string // empty: none
	Nonce  string
	Pin    string
	Server string // host:port of provision/1
	Files  string // host:port of /boot/
}

// holdAll is what is told to a node that gets nothing, whatever the reason.
const holdAll = "waiting for approval"

// boot is GET /boot/ipxe?mac=….
func (s *Service) boot(w http.ResponseWriter, r *http.Request) error {
	hwaddr, err := ParseHWAddr(r.URL.Query().Get("mac"))
	if err != nil {
		return invalid(err)
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	leave, err := s.enter("") // who asks has not proved to be that node, and must not use up its places
	if err != nil {
		return err
	}
	defer leave()
	b, err := s.Claim(r.Context(), hwaddr, from)
	if err != nil {
		return err
	}
	b.Pin = s.cfg.Pin
	b.Server, b.Files = s.cfg.At(reached(r))
	text := s.cfg.IPXE(b)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // who left does not need it
	return nil
}

// begin gives a node its nonce, in the place of the one it had.
func (s *Service) begin(tx Tx, n Node, from netip.Addr) (string, error) {
	if err := tx.DeleteNonce(n.Name); err != nil {
		return "", err
	}
	var b [nonceLen / 2]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	text, now := hex.EncodeToString(b[:]), s.cfg.Now()
	nonce := Nonce{Node: n.Name, Hash: sha256.Sum256([]byte(text)), Source: from, Created: now, Expires: now.Add(NonceLife)}
	if err := tx.PutNonce(nonce); err != nil {
		return "", err
	}
	n.Addr, n.Contact = from, now
	if err := tx.PutNode(n); err != nil {
		return "", err
	}
	return text, tx.Audit(&auditpb.Record{
		TimeMs: now.UnixMilli(), Actor: "address/" + from.String(), Action: "node.boot", Subject: n.Name,
		Detail: fmt.Sprintf("%s boots from %s; its nonce is good until %s", n.HWAddr, from, nonce.Expires.UTC().Format(time.RFC3339)),
	})
}

// heard notes when a node that gets nothing was heard of, not each time.
func (s *Service) heard(tx Tx, n Node, from netip.Addr) error {
	now := s.cfg.Now()
	if n.Addr == from && now.Sub(n.Contact) < contactEvery {
		return nil
	}
	n.Addr, n.Contact = from, now
	return tx.PutNode(n)
}
