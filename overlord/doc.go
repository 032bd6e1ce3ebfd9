// Package overlord is the daemon that holds the minions' sessions, carries out
// operators' orders, grants certificates, keeps the store and the audit log,
// and serves the API. It joins session, store, enrol, job and audit, none of
// which knows another.
package overlord
