// Package cluster keeps the cluster data that candidates answer confd queries
// from. The data are a document: a config.data as Ganeti 3.0 writes it, so that
// Ganeti's own daemon could serve it, and confd.ParseConfig is the judge of every
// version. A Document never changes; a change (Apply) gives the next version,
// whose serial is one higher, and keeps every member that this package does not
// know.
//
// What Ganeti does with serial_no and mtime is done here: an object that changes
// has its own raised by one and set to the time; cluster.serial_no, which most
// answers of confd carry, and the document's own grow with every version.
//
// The package reads no clock, no network and no disk.
package cluster
