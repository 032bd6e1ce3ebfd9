package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"dominion/call"
	"dominion/module"
)

func check(ctx context.Context, _ *module.Env, in CheckIn) (Checked, error) {
	within, cancel := context.WithTimeout(ctx, time.Duration(in.Seconds*float64(time.Second)))
	defer cancel()
	began := time.Now()
	var d net.Dialer
	conn, err := d.DialContext(within, in.Protocol, net.JoinHostPort(in.Host, strconv.Itoa(in.Port)))
	var out Checked
	if err == nil {
		defer conn.Close()
		out.Address = host(conn.RemoteAddr())
		if in.Protocol == "udp" {
			err = exchange(within, conn, in.Payload)
		}
	}
	if err != nil && over(ctx) {
		return Checked{}, context.Cause(ctx)
	}
	out.Millis = float64(time.Since(began).Microseconds()) / 1000
	out.State, out.Reached = state(err), err == nil
	if err != nil {
		out.Detail = err.Error()
		if e, ok := errors.AsType[*net.OpError](err); ok && e.Addr != nil {
			out.Address = host(e.Addr)
		}
	}
	return out, nil
}

// over says whether the call's time is over. A connection knows the deadline
// too, and may tell of it a moment before the context does.
func over(ctx context.Context) bool {
	if late, ok := ctx.Deadline(); ok && !time.Now().Before(late) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

// exchange sends a datagram and waits for one that comes back.
func exchange(ctx context.Context, conn net.Conn, payload string) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write([]byte(payload)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// state says in one word what an error means for who wants to reach a port.
func state(err error) string {
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case err == nil:
		return "open"
	case isDNS && !dns.IsTimeout:
		return "unresolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), isDNS:
		return "silent"
	}
	return "unreachable"
}

func resolve(ctx context.Context, _ *module.Env, in ResolveIn) (Resolved, error) {
	r := &net.Resolver{PreferGo: true}
	if in.Server != "" {
		server, err := serverAddress(in.Server)
		if err != nil {
			return Resolved{}, err
		}
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}
	}
	within, cancel := context.WithTimeout(ctx, time.Duration(in.Seconds*float64(time.Second)))
	defer cancel()
	kind := in.Type
	if _, err := netip.ParseAddr(in.Name); err == nil && kind == "address" {
		kind = "ptr"
	}
	found, err := lookup(within, r, kind, in.Name)
	out := Resolved{Name: in.Name, Type: kind}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isDNS && dns.IsNotFound:
		return out, nil
	case err != nil && over(ctx):
		return Resolved{}, context.Cause(ctx)
	case err != nil && (within.Err() != nil || isDNS && dns.IsTimeout):
		return Resolved{}, fmt.Errorf("look up %s: no answer within %gs", in.Name, in.Seconds)
	case err != nil:
		return Resolved{}, fmt.Errorf("look up %s: %v", in.Name, err)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	out.Records, out.Found = found[:min(len(found), maxRecords)], len(found) > 0
	return out, nil
}

// serverAddress adds the port of DNS to an address without one.
func serverAddress(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53).String(), nil
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.String(), nil
	}
	return "", call.Errorf(call.Invalid, "server %q: wants an address, such as 192.0.2.1 or [2001:db8::1]:53", s)
}

func lookup(ctx context.Context, r *net.Resolver, kind, name string) ([]string, error) {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	var err error
	switch kind {
	case "ptr":
		return r.LookupAddr(ctx, name)
	case "cname":
		var s string
		if s, err = r.LookupCNAME(ctx, name); err == nil {
			add("%s", s)
		}
	case "mx":
		var list []*net.MX
		list, err = r.LookupMX(ctx, name)
		for _, x := range list {
			add("%d %s", x.Pref, x.Host)
		}
	case "ns":
		var list []*net.NS
		list, err = r.LookupNS(ctx, name)
		for _, x := range list {
			add("%s", x.Host)
		}
	case "txt":
		return r.LookupTXT(ctx, name)
	case "srv":
		var list []*net.SRV
		_, list, err = r.LookupSRV(ctx, "", "", name)
		slices.SortFunc(list, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, x := range list {
			add("%d %d %d %s", x.Priority, x.Weight, x.Port, x.Target)
		}
	default:
		return r.LookupHost(ctx, name)
	}
	return found, err
}
