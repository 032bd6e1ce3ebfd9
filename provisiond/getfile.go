package provisiond

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// session is what getfile knows: the file DOMINION_SESSION.
type session struct {
	identity
	Servers []string `json:"servers"` // host:port; first the one that gave the script
}

const getfileUsage = `usage: getfile PATH...

Fetches files below STATEDIR of the overlord into the working directory, each
under its last name. One that is there already with the right content is kept;
one that was interrupted is continued.
`

// How often a file is tried again without a byte more.
const (
	fileTries   = 10
	maxFileWait = 10 * time.Second
)

// getfile runs the program as getfile.
func (p *program) getfile(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(p.Args) == 0 || p.Args[0] == "-h" || p.Args[0] == "--help" {
		fmt.Fprint(p.Stderr, getfileUsage)
		return exitUsage
	}
	sess, err := p.session()
	if err != nil {
		fmt.Fprintf(p.Stderr, "getfile: %v\n", err)
		return exitUsage
	}
	l, err := newLink(sess.identity)
	if err != nil {
		fmt.Fprintf(p.Stderr, "getfile: %v\n", err)
		return exitUsage
	}
	defer l.close()
	for _, name := range p.Args {
		f := &fetcher{link: l, servers: sess.Servers, path: name, pause: p.pause / 2}
		if err := f.get(ctx); err != nil {
			fmt.Fprintf(p.Stderr, "getfile: %s: %v\n", name, err)
			return exitUsage
		}
	}
	return 0
}

func (p *program) session() (session, error) {
	var s session
	file := ""
	for _, kv := range p.Environ {
		if v, ok := strings.CutPrefix(kv, sessionEnv+"="); ok {
			file = v
		}
	}
	if file == "" {
		return s, errors.New(sessionEnv + " is not set: it works in scripts that provisiond runs")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("read the session: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read the session: %w", err)
	}
	if len(s.Servers) == 0 || len(s.HWAddr) == 0 {
		return s, errors.New("read the session: it names no server")
	}
	return s, nil
}

// fetcher brings one file.
type fetcher struct {
	*link
	servers []string
	path    string // as the script named it
	pause   time.Duration
}

// remote is what a server says of a file.
type remote struct {
	digest digest
	size   int64
	etag   string
}

// get fetches the file, and tries again as long as there is progress.
func (f *fetcher) get(ctx context.Context) error {
	name := path.Base(f.path)
	if name == "." || name == ".." || name == "/" {
		return errors.New("it is no name of a file")
	}
	wait, failures := f.pause, 0
	for {
		grew, err := f.once(ctx, name)
		if err == nil || ctx.Err() != nil {
			return cause(ctx, err)
		}
		if failures++; grew {
			wait, failures = f.pause, 1
		}
		if _, local := errors.AsType[*os.PathError](err); local || hopeless(err) || failures >= fileTries {
			return err
		}
		f.servers = append(f.servers[1:], f.servers[0])
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, maxFileWait)
	}
}

// once makes one attempt. grew says that there is more of the file than before.
func (f *fetcher) once(ctx context.Context, name string) (grew bool, err error) {
	resp, err := f.request(ctx, http.MethodHead, nil)
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	r, err := remoteOf(resp)
	if err != nil {
		return false, err
	}
	if same(name, r) {
		return false, nil
	}
	part := "." + name + "." + hex.EncodeToString(r.digest[:8]) + ".part"
	if len(part) > 255 {
		part = "." + hex.EncodeToString(r.digest[:]) + ".part"
	}
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o644) //nolint:gosec // of a new system; the script's umask counts
	if err != nil {
		return false, err
	}
	defer file.Close()
	sum := sha256.New()
	have, err := io.Copy(sum, file)
	if err != nil {
		return false, err
	}
	if have > r.size {
		have = 0
		sum.Reset()
		if err := file.Truncate(0); err != nil {
			return false, err
		}
	}
	if have < r.size {
		n, err := f.rest(ctx, file, sum, r, have)
		if err != nil {
			return n > 0, err
		}
	}
	if digest(sum.Sum(nil)) != r.digest {
		return false, errors.Join(fmt.Errorf("%w: its digest is another", errNotWhole), os.Remove(part))
	}
	return true, os.Rename(part, name)
}

// same says that the file is here already.
func same(name string, r remote) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != r.size {
		return false
	}
	file, err := os.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	return err == nil && digest(sum.Sum(nil)) == r.digest
}

// rest appends what is missing from have on.
func (f *fetcher) rest(ctx context.Context, file *os.File, sum hash.Hash, r remote, have int64) (int64, error) {
	var header http.Header
	if have > 0 {
		header = http.Header{"Range": {"bytes=" + strconv.FormatInt(have, 10) + "-"}}
		if r.etag != "" {
			header.Set("If-Range", r.etag)
		}
	}
	resp, err := f.request(ctx, http.MethodGet, header)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && have > 0 { // it begins anew
		have = 0
		sum.Reset()
		if err := file.Truncate(0); err != nil {
			return 0, err
		}
	}
	if want := fmt.Sprintf("bytes %d-%d/%d", have, r.size-1, r.size); have > 0 && resp.Header.Get("Content-Range") != want {
		return 0, fmt.Errorf("the server gives %.80q of the file; wanted is %q", resp.Header.Get("Content-Range"), want)
	}
	if d, err := parseDigest(resp.Header.Get("Digest")); err != nil || d != r.digest {
		return 0, fmt.Errorf("%w: the file changed meanwhile", errNotWhole)
	}
	if _, err := file.Seek(have, io.SeekStart); err != nil {
		return 0, err
	}
	body := newPatient(resp.Body, idleTime)
	defer body.stop()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(file, sum)}, io.LimitReader(body, r.size-have), make([]byte, 128<<10))
	if err == nil && n < r.size-have {
		err = fmt.Errorf("%w: %d of %d bytes", errNotWhole, have+n, r.size)
	}
	return n, cause(ctx, err)
}

// remoteOf reads what a server says of a file. Without length and digest it is
// not fetched.
func remoteOf(resp *http.Response) (remote, error) {
	r := remote{size: resp.ContentLength, etag: resp.Header.Get("ETag")}
	if r.size < 0 {
		return r, fmt.Errorf("%w: the server does not say its length", errNotWhole)
	}
	d, err := parseDigest(resp.Header.Get("Digest"))
	if err != nil {
		return r, fmt.Errorf("%w: %v", errNotWhole, err)
	}
	r.digest = d
	return r, nil
}

// request asks for the file at the first server of the list.
func (f *fetcher) request(ctx context.Context, method string, header http.Header) (*http.Response, error) {
	u := url.URL{Scheme: "https", Host: f.servers[0], Path: "/provision/v1/files/" + strings.TrimLeft(f.path, "/")}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if f.State == stateInit {
		req.Header.Set("Authorization", "Dominion-Nonce "+base64.StdEncoding.EncodeToString([]byte(f.HWAddr[0]+"\x00"+f.Nonce)))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, cause(ctx, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		defer resp.Body.Close()
		r := readRefusal(resp)
		if method == http.MethodHead && r.detail == "" && r.status == http.StatusNotFound {
			r.detail = "there is no such file"
		}
		return nil, r
	}
	return resp, nil
}
