package enrol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/pki"
)

// tokenLen is the length of a token's text: 256 random bits in hex.
const tokenLen = 64

// TokenSpec says what a new token enrols.
type TokenSpec struct {
	Name     string         // pattern of names; required
	Role     pki.Role       // empty: minion; or overlord; operators' tokens are AddOperator's
	Uses     uint64         // 0: 1; at most MaxTokenUses
	Life     time.Duration  // 0: DefaultTokenLife; at most MaxTokenLife
	Replace  bool           // revokes the certificates that the name has under other keys
	Networks []netip.Prefix // of the asking address; empty: any
}

// CreateToken makes a join token for minions, or for one overlord by its name. Its
// text is given once and kept nowhere. Codes: Invalid, Busy, Unavailable.
func (r *Registrar) CreateToken(ctx context.Context, actor string, spec TokenSpec) (text string, t Token, err error) {
	switch spec.Role {
	case "", pki.Minion:
		spec.Role = pki.Minion
	case pki.Operator:
		return "", Token{}, call.Errorf(call.Invalid, "a token for an operator is made by dominion operator add NAME")
	case pki.Overlord:
		if err := r.overlordToken(&spec); err != nil {
			return "", Token{}, err
		}
	default:
		return "", Token{}, call.Errorf(call.Invalid, "%.40q is not a role", string(spec.Role))
	}
	return r.addToken(ctx, actor, "token.create", spec)
}

// AddOperator makes a token that enrols one operator once. An operator who has
// a certificate gets another beside it, for another computer. Codes: Invalid,
// Busy, Unavailable.
func (r *Registrar) AddOperator(ctx context.Context, actor, name string, life time.Duration) (text string, t Token, err error) {
	if name, err = call.ParseName(name); err != nil {
		return "", Token{}, call.Errorf(call.Invalid, "%v", err)
	}
	if _, err := r.authority(pki.Operator); err != nil {
		return "", Token{}, err
	}
	return r.addToken(ctx, actor, "operator.add", TokenSpec{Name: name, Role: pki.Operator, Life: life})
}

// overlordToken checks that a token for an overlord is for one name and one use.
func (r *Registrar) overlordToken(spec *TokenSpec) error {
	name, err := call.ParseName(spec.Name)
	if err != nil {
		return call.Errorf(call.Invalid, "a token for an overlord is for one name, not for %.80q", spec.Name)
	}
	if spec.Uses > 1 {
		return call.Errorf(call.Invalid, "a token for an overlord has one use, not %d", spec.Uses)
	}
	spec.Name = name
	_, err = r.authority(pki.Overlord)
	return err
}

func (r *Registrar) addToken(ctx context.Context, actor, action string, spec TokenSpec) (string, Token, error) {
	if _, err := r.compile(spec.Name, spec.Networks); err != nil {
		return "", Token{}, err
	}
	if spec.Uses == 0 {
		spec.Uses = 1
	}
	if spec.Life == 0 {
		spec.Life = DefaultTokenLife
	}
	if spec.Uses > MaxTokenUses || spec.Life < 0 || spec.Life > MaxTokenLife {
		return "", Token{}, call.Errorf(call.Invalid, "%d uses for %s; at most %d for %s are allowed", spec.Uses, spec.Life, MaxTokenUses, MaxTokenLife)
	}
	now := r.cfg.Now()
	text, hash := newToken()
	t := Token{
		ID: tokenID(hash), Hash: hash, Name: spec.Name, Role: spec.Role, Uses: spec.Uses,
		Created: now, CreatedBy: actor, Expires: now.Add(spec.Life), Replace: spec.Replace, Networks: slices.Clone(spec.Networks),
	}
	err := r.cfg.Store.Update(ctx, func(tx Tx) error {
		if err := r.tokenRoom(tx); err != nil {
			return err
		}
		if _, taken, err := tx.Token(t.ID); err != nil || taken {
			return cmpErr(err, call.Errorf(call.Busy, "the id of the new token is taken; ask again"))
		}
		if err := tx.PutToken(t); err != nil {
			return err
		}
		return r.recordToken(tx, actor, action, t, fmt.Sprintf("%s %s, %d uses until %s, replace %t, networks %v",
			t.Role, t.Name, t.Uses, t.Expires.UTC().Format(time.RFC3339), t.Replace, t.Networks))
	})
	if err != nil {
		return "", Token{}, fmt.Errorf("create token: %w", err)
	}
	return text, t, nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// tokenRoom removes expired tokens and refuses when too many are left.
func (r *Registrar) tokenRoom(tx Tx) error {
	all, err := tx.Tokens()
	if err != nil {
		return err
	}
	left := 0
	for _, t := range all {
		if r.cfg.Now().Before(t.Expires) {
			left++
			continue
		}
		if err := tx.DeleteToken(t.ID); err != nil {
			return err
		}
	}
	if left >= MaxTokens {
		return call.Errorf(call.Busy, "%d tokens are valid already; revoke some: dominion token list", left)
	}
	return nil
}

func newToken() (text string, hash [sha256.Size]byte) {
	var b [tokenLen / 2]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	text = hex.EncodeToString(b[:])
	return text, sha256.Sum256([]byte(text))
}

// Tokens gives all tokens that have not expired, the used up included, the
// newest first.
func (r *Registrar) Tokens(ctx context.Context) (out []Token, err error) {
	err = r.cfg.Store.Update(ctx, func(tx Tx) error {
		out, err = tx.Tokens()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	out = slices.DeleteFunc(out, func(t Token) bool { return !r.cfg.Now().Before(t.Expires) })
	slices.SortFunc(out, func(a, b Token) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// RevokeToken withdraws a token. What it enrolled stays. Code: NotFound.
func (r *Registrar) RevokeToken(ctx context.Context, actor, id string) error {
	err := r.cfg.Store.Update(ctx, func(tx Tx) error {
		t, ok, err := tx.Token(id)
		if err != nil {
			return err
		}
		if !ok {
			return call.Errorf(call.NotFound, "no token has the id %.20q; dominion token list shows all", id)
		}
		if err := tx.DeleteToken(id); err != nil {
			return err
		}
		return r.recordToken(tx, actor, "token.revoke", t, fmt.Sprintf("%s %s, used %d of %d", t.Role, t.Name, t.Used, t.Uses))
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

func (r *Registrar) recordToken(tx Tx, actor, action string, t Token, detail string) error {
	return tx.Audit(&auditpb.Record{
		TimeMs: r.cfg.Now().UnixMilli(), Actor: actor, Action: action, Subject: "token/" + t.ID, Detail: detail,
	})
}
