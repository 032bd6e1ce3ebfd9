// Package call holds the words that every part of Dominion shares: machine
// names, job ids, failure codes, the order that an operator signs, the Merkle
// tree that binds it to an exact set of machines, and the result of one call.
//
// It does no input or output and knows no other package of this module but
// the generated messages.
package call
