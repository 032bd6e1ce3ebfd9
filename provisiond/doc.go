// Package provisiond is the client of a node that is provisioned: it asks an
// overlord for the script of this node in a state, runs it when it arrived
// whole, and tells what became of it.
//
//	provisiond [options] SERVER[,SERVER...] STATE [ARG...]
//
// The protocol is provision/1, HTTPS on the overlord's port 51235. A server is
// believed when its certificate is an overlord's directly under the pinned root;
// in state init dates are not looked at, as in enrolment, because the clock of a
// machine that starts may be wrong. In init the node shows the nonce of its boot;
// in every other state the certificate of its minion.
//
//	POST /provision/v1/script   JSON {hwaddr, state, args, nonce}   the script
//	POST /provision/v1/join     JSON {hwaddr, nonce}                token, pin, overlords, name; in init
//	POST /provision/v1/result   JSON {hwaddr, state, nonce, digest, exit, took_ms, detail}
//	GET  /provision/v1/files/   with Range                          files, for getfile
//
// A script is run when its reply had status 200, its Content-Length, and the
// SHA-256 of its header Digest ("sha-256=BASE64"). Otherwise not one line of it is.
//
// On the kernel's command line are
//
//	dominion.pin=sha256:…     the root's pin
//	dominion.server=A[,B]     the overlords; the SERVER "-" means these
//	dominion.nonce=TEXT       of this boot, for state init
//	dominion.mac=MAC          of the interface that booted
//
// The script is the standard input of a shell, with the environment and the
// working directory of provisiond, and
//
//	PATH              begins with a directory that holds getfile
//	DOMINION_SESSION  what getfile needs to know, a file of mode 0600
//	DOMINION_JOIN     in init: a file of mode 0600 for the minion that enrols
//
// all of which are gone when the script has ended. The file DOMINION_JOIN has
// four lines, which a shell may read with "." and systemd as an EnvironmentFile:
//
//	DOMINION_NAME=n0001
//	DOMINION_PIN=sha256:…
//	DOMINION_OVERLORDS=192.0.2.1:51235
//	DOMINION_TOKEN=…
//
// Exit codes are the old provisiond's, not those of dominion: the script's own;
// 128 and the signal when one killed its shell; 255 when no server gave a script
// or it did not arrive whole; 1 for wrong usage, and when no SERVER can be
// resolved.
package provisiond
