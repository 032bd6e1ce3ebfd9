// Package job carries out an order: it plans who is to be sent what, gathers
// what comes back, folds equal results into groups, and keeps the account
//
//	answered + failed + unreachable + skipped = targeted
//
// for every job, by name, whatever fails. It knows neither sockets nor SQL: a
// sender puts calls on sessions, a keeper makes groups durable.
package job
