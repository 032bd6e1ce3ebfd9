// Package pki holds the identities of a fleet: the certificate authorities,
// certificate requests, the rules by which a chain is believed, the signed
// revocation list, statements of the root, and the state directory that keeps
// all of it on disk.
//
//	root ── operator/NAME
//	     ── overlord/NAME
//	     ── issuing CA of an overlord ── minion/NAME
//
// Chains are never deeper. Every key is ECDSA P-256, but for log keys, which
// are Ed25519. A leaf carries exactly one URI SAN, which is its identity:
// dominion://ROLE/NAME. The root signs operators, overlords and issuing CAs;
// an issuing CA signs minions and nothing else. The last is written into it as
// a critical name constraint, and checked once more by [Trust.Verify], because
// a URI constraint does not bind a leaf that has no URI.
//
// Statements are signed with the root's key apart from certificates: ECDSA,
// ASN.1, over SHA-256(prefix || body), carried as fleetpb.Signed.
//
//	prefix                 body                      opened by
//	dominion-revoked-v1    fleetpb.RevocationList    ParseRevocations
//	dominion-logkey-v1     fleetpb.LogKey            OpenLogKey
//	dominion-recovery-v1   fleetpb.Recovery          OpenStatement
package pki
