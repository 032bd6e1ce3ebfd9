// Package module is the frame in which the methods of a minion are written: a
// method is a Go function with a typed input and a typed output struct, and
// what is declared on the fields of those structs becomes the validation of
// arguments, the schema that operators see, and the meaning of the words on
// the command line.
//
//	var Module = module.Module{Name: "service", Doc: "System services.", Methods: []module.Method{
//		module.Func("status", "Says whether a service runs.", module.Read, status, module.MethodOptions{}),
//	}}
//
//	type statusIn struct {
//		Name string `json:"name" doc:"the service" required:"true" max:"256"`
//	}
//
// # Field tags
//
//	json      the field's name: lower case, digits and underscores
//	doc       one line for people; every field must have it
//	required  "true": the call is refused without it
//	default   the value when it is left out
//	min, max  numbers and durations: the bounds; texts: bytes; lists and maps: entries
//	enum      the values allowed, separated by commas (of each element, for lists)
//	pattern   an RE2 expression that the whole text must match (each element, for lists)
//	secret    "true": the value is never shown in an error, a log or a job
//
// Default, min and max are written as a person would type them: 3, 1m30s, true.
//
// # Types
//
//	in Go                        in the schema      in JSON
//	string                       string             "text"
//	bool                         bool               true
//	int, int8 … uint64           int                3
//	float64                      float              2.5
//	time.Duration (input)        duration           "1m30s"
//	Bytes                        bytes              "text", or {"base64": "…"} for what is not UTF-8
//	[]string                     []string           ["a", "b"]
//	map[string]string            map[string]string  {"a": "b"}
//	struct (output)              object             {…}, described by fields
//	[]T, map[string]T (output)   []T, map[string]T  as T; for structs described by fields
//	time.Time (output)           time               RFC 3339
//
// # Schema
//
// A method's schema is a JSON object. Keys whose value would be empty are
// left out; a reader ignores keys that it does not know.
//
//	name        "service.status"
//	doc         one line
//	module_doc  one line about the module
//	effect      "read", "change" or "destroy"
//	timeout     a Go duration; "0s": none
//	fields      the input, in the order of positional words
//	output      the output
//
// and each field an object with the keys name, type, doc, required, default,
// min, max, enum, pattern, secret, and fields for objects.
package module
