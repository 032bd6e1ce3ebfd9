package provision

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// BootHandler serves /boot/ over plain HTTP: what firmware asks for. Kernels
// and initial file systems are everybody's, and hold no secrets. With the old
// protocol it serves LegacyPath, too.
func (s *Service) BootHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot/ipxe", s.handle("node.boot", s.boot))
	for _, what := range []string{"kernel", "initramfs"} {
		h := s.handle("node.boot", func(w http.ResponseWriter, r *http.Request) error { return s.bootFile(w, r, what) })
		mux.HandleFunc("GET /boot/"+what, h)
		mux.HandleFunc("GET /boot/"+what+"/{vnfs}", h)
	}
	if s.cfg.Legacy == nil {
		return mux
	}
	legacy := s.handle("node.file", s.legacyFile)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, LegacyPath) { // as it came: the mux would answer those with ".."
			legacy(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// bootFile serves STATEDIR/vnfs/VNFS/kernel, or STATEDIR/boot/kernel where the
// capsule has none.
func (s *Service) bootFile(w http.ResponseWriter, r *http.Request, what string) error {
	vnfs, err := ParseVNFS(r.PathValue("vnfs"))
	if err != nil {
		return &Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: err.Error(), quiet: true}
	}
	names := []string{"boot/" + what}
	if vnfs != "" {
		names = []string{"vnfs/" + vnfs + "/" + what, "boot/" + what}
	}
	for _, name := range names {
		body, err := s.openBoot(name)
		if errors.Is(err, fs.ErrNotExist) {
			body, err = s.bootAbove(r.Context(), name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer body.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		s.serve(w, r, body)
		return nil
	}
	if s.lacks.take(s.cfg.Now()) { // anybody can ask
		s.cfg.Log.Warn("a machine that boots asks for a file that is not there", "file", names[0], "otherwise", names[len(names)-1], "from", r.RemoteAddr)
	}
	return &Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: "there is no " + what + "; put it to " + names[0] + " in the directory of node scripts", quiet: true}
}

// openBoot opens a file of ours; the error wraps fs.ErrNotExist when there is none.
func (s *Service) openBoot(name string) (Body, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
