// Package enrol asks for certificates and grants them.
//
// The asking side is [Ask]: it knows the fleet's root by a pin, believes no
// server but an overlord under that root, sends a certificate request and asks
// again until it is granted or refused.
//
// The granting side is a [Registrar] over a [Store]. A request is answered by
// the first of these that applies:
//
//	the key has a valid certificate of that name    the same certificate again
//	the key was revoked                             rejected
//	a token came along                              granted, or the token is refused
//	an operator rejected the request                rejected
//	an autosign rule covers a new minion            granted
//	otherwise                                       held for an operator
//
// A minion's name that is in use by another key is never signed but with a
// token or by an operator who says that the old certificate be replaced.
// Whatever changes is one transaction with its record in the audit log.
package enrol
