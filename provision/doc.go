// Package provision decides what a machine gets while it is made from bare
// metal: nodes by hardware address, held until they are approved; the nonce of
// a boot; scripts, join tokens and files over provision/1; scripts, kernels and
// initial file systems for iPXE.
//
// It declares what it needs of a store, listens nowhere, and leaves to its
// caller which certificate a connection shows. docs/protocol/provision.md is
// the protocol.
package provision
