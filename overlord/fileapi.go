package overlord

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"dominion/api/apierr"
	"dominion/blob"
	"dominion/call"
	"dominion/module/copy"
)

// pathFiles is where files come from operators, on the API: see docs/files.md.
const pathFiles = "/files/v1/"

// uploadPatience is how long an operator who sends a file may send nothing.
const uploadPatience = time.Minute

// fileAPI takes what operators send before they order it to be copied.
type fileAPI struct{ o *Overlord }

// handler serves it, to operators alone: guard is before it.
func (a fileAPI) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := any(nil), a.may(r)
			if err == nil {
				out, err = f(w, r)
			}
			a.answer(w, r, out, err)
		})
	}
	handle("GET "+pathFiles+"blobs/{digest}", a.has)
	handle("GET "+pathFiles+"sizes/{size}", a.hasSize)
	handle("GET "+pathFiles+"uploads/{id}", a.received)
	handle("PUT "+pathFiles+"uploads/{id}", a.receive)
	handle("POST "+pathFiles+"uploads/{id}", a.commit)
	return mux
}

// may says why a caller may not send files: only who may copy to some machine may.
func (a fileAPI) may(r *http.Request) error {
	c := callerFrom(r.Context())
	if c.local || a.o.currentPolicy().Somewhere(c.Name, copy.MethodPut) {
		return nil
	}
	a.o.auditDenied(r.Context(), c, copy.MethodPut, "", "policy, for sending a file")
	return call.Errorf(call.Denied, "operator %q may not call %s on any machine", c.Name, copy.MethodPut)
}

// fileError is the answer to a request that fails.
type fileError struct {
	Code   uint32 `json:"code"` // call.Code
	Detail string `json:"detail"`
}

func (a fileAPI) answer(w http.ResponseWriter, r *http.Request, out any, err error) {
	status := http.StatusOK
	if err != nil {
		e, internal := apierr.ToPeer(err)
		if internal {
			a.o.log.Error("file not taken", "path", cutText(r.URL.Path, 100), "error", err)
		}
		status, out = http.StatusConflict, fileError{Code: uint32(call.CodeOf(err)), Detail: e.Message()}
	}
	b, err := json.Marshal(out)
	if err != nil {
		b = []byte("{}") // these types have no such value
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // who left does not need it
}

// HaveFile says how much of a file the overlord has.
type haveFile struct {
	Have int64 `json:"have"`           // bytes
	All  bool  `json:"all,omitempty"`  // that is the whole file
	Some bool  `json:"some,omitempty"` // there is a file of that size
}

func (a fileAPI) has(_ http.ResponseWriter, r *http.Request) (any, error) {
	d, err := blob.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	n, ok := a.o.blobs.store.Has(d)
	return haveFile{Have: n, All: ok}, nil
}

func (a fileAPI) hasSize(_ http.ResponseWriter, r *http.Request) (any, error) {
	n, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the size is not a number")
	}
	return haveFile{Some: a.o.blobs.store.HasSize(n)}, nil
}

// uploadID reads the number of an upload, which is another one for each operator.
func uploadID(r *http.Request) (id blob.UploadID, err error) {
	b, err := hex.DecodeString(r.PathValue("id"))
	if err != nil || len(b) != len(id) {
		return id, call.Errorf(call.Invalid, "the upload's number is not %d hexadecimal digits", 2*len(id))
	}
	return blob.UploadOf(callerFrom(r.Context()).Name, b), nil
}

func (a fileAPI) received(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := uploadID(r)
	if err != nil {
		return nil, err
	}
	return haveFile{Have: a.o.blobs.store.Received(id)}, nil
}

func (a fileAPI) receive(w http.ResponseWriter, r *http.Request) (any, error) {
	id, err := uploadID(r)
	if err != nil {
		return nil, err
	}
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the offset is not a number")
	}
	n, err := a.o.blobs.store.Receive(r.Context(), id, offset, &slowly{r.Body, http.NewResponseController(w)})
	return haveFile{Have: n}, err
}

func (a fileAPI) commit(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := uploadID(r)
	if err != nil {
		return nil, err
	}
	d, err := blob.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size < 0 {
		return nil, call.Errorf(call.Invalid, "the size is not a number")
	}
	return haveFile{Have: size, All: true}, a.o.blobs.store.Commit(id, d, size)
}

// slowly reads a body as long as something comes now and then.
type slowly struct {
	io.Reader
	control *http.ResponseController
}

// Read implements io.Reader.
func (s *slowly) Read(p []byte) (int, error) {
	_ = s.control.SetReadDeadline(time.Now().Add(uploadPatience)) // both protocols can
	return s.Reader.Read(p)
}
