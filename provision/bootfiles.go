package provision

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"syscall"
	"time"
)

// BootHandler serves /boot/ over plain HTTP: what firmware asks for. Kernels
// and initial file systems are everybody's, and hold no secrets.
func (s *Service) BootHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot/ipxe", s.handle("node.boot", s.boot))
	for _, what := range []string{"kernel", "initramfs"} {
		h := s.handle("node.boot", func(w http.ResponseWriter, r *http.Request) error { return s.bootFile(w, r, what) })
		mux.HandleFunc("GET /boot/"+what, h)
		mux.HandleFunc("GET /boot/"+what+"/{vnfs}", h)
	}
	return mux
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
		f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if st.Mode().IsRegular() {
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, r, "", time.Time{}, f)
			return nil
		}
	}
	if s.lacks.take(s.cfg.Now()) { // anybody can ask
		s.cfg.Log.Warn("a machine that boots asks for a file that is not there", "file", names[0], "otherwise", names[len(names)-1], "from", r.RemoteAddr)
	}
	return &Refusal{Status: http.StatusNotFound, Code: "not_found", Detail: "there is no " + what + "; put it to " + names[0] + " in the directory of node scripts", quiet: true}
}
