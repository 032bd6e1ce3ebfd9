package apierr_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/call"
)

func TestRoundTrip(t *testing.T) {
	for c := call.Internal; c <= call.NoMatch; c++ {
		out, _ := apierr.ToPeer(fmt.Errorf("ask: %w", call.Errorf(c, "because")))
		got := apierr.FromPeer(out)
		if got == nil || got.Code != c || got.Detail != "because" {
			t.Errorf("%v comes back as %v", c, got)
		}
	}
}

func TestInternalIsNotTold(t *testing.T) {
	out, internal := apierr.ToPeer(errors.New("secret path"))
	if !internal || strings.Contains(out.Error(), "secret") || apierr.FromPeer(out).Code != call.Internal {
		t.Errorf("ToPeer = %v, %v", out, internal)
	}
	if out, internal := apierr.ToPeer(context.Canceled); internal || apierr.FromPeer(out).Code != call.Cancelled {
		t.Errorf("ToPeer(Canceled) = %v, %v", out, internal)
	}
	left := connect.NewError(connect.CodeCanceled, errors.New("write: broken pipe"))
	if out, internal := apierr.ToPeer(left); internal || apierr.FromPeer(out).Code != call.Cancelled {
		t.Errorf("ToPeer(%v) = %v, %v", left, out, internal)
	}
	if got := apierr.FromPeer(errors.New("dial")); got != nil {
		t.Errorf("FromPeer of a local error = %v", got)
	}
}
