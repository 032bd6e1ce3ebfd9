// Package copy brings files to a machine, and gives files of it.
//
// put writes what a manifest lists (package blob): it asks the overlord that brought
// the call for the manifest and for each file that differs, by digest, and writes each
// beside its place until it is whole. What was written before a break is kept as
// .dominion-copy-….part and not asked for again.
//
// get sends files as live output: see Frame.
package copy

import (
	"dominion/module"
)

// MethodPut is what an order says that brings files.
const MethodPut = "copy.put"

// MethodGet is what an order says that fetches files.
const MethodGet = "copy.get"

// Module is the table of the methods.
var Module = module.Module{
	Name: "copy",
	Doc:  "Bring files and directories of any size to a machine, and fetch them. dominion copy and dominion fetch use it.",
	Methods: []module.Method{
		module.Func("put", "Writes the files of a manifest that the overlord has.", module.Change, put, module.MethodOptions{Timeout: -1}),
		module.Func("get", "Sends a file, or the files of a directory, as live output.", module.Read, get, module.MethodOptions{Timeout: -1}),
	},
}

// PutIn is the input of put.
type PutIn struct {
	Path         string `json:"path" doc:"where the file, or what is in the directory, goes; the directory above it must exist" required:"true" pattern:"/.*" max:"4095"`
	Manifest     string `json:"manifest" doc:"digest of the manifest" required:"true" pattern:"sha256:[0-9a-f]{64}"`
	ManifestSize int64  `json:"manifest_size" doc:"bytes of the manifest" required:"true" min:"1" max:"33554432"`
	Checksum     bool   `json:"checksum" doc:"compare by digest also files whose size and time are equal"`
	DryRun       bool   `json:"dry_run" doc:"only say what would change"`
}

// PutOut is the output of put.
type PutOut struct {
	Changed bool  `json:"changed" doc:"whether anything was changed, or would be"`
	Written int   `json:"written" doc:"files, directories and links that were written, made or given another mode, owner or time"`
	Bytes   int64 `json:"bytes" doc:"bytes of the files that were written"`
}

// Progress is one line of live output of put.
type Progress struct {
	Have int64 `json:"have"` // bytes of the manifest's files that are in place or on the disk
}
