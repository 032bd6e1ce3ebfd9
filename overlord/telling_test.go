package overlord

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhileTelling(t *testing.T) {
	gone, failed := errors.New("gone"), errors.New("failed")
	for _, tt := range []struct {
		name  string
		takes time.Duration // one slow step
		fails error         // of what is done
		gone  int           // the telling that fails; 0: none
		told  int
		want  error
	}{
		{"quick", time.Millisecond, nil, 0, 0, nil},
		{"slow", 10*time.Second + time.Millisecond, nil, 0, 10, nil},
		{"fails", 2*time.Second + time.Millisecond, failed, 0, 2, failed},
		{"nobody listens", time.Hour, nil, 3, 3, gone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := 0
				err := whileTelling(t.Context(), time.Second, func() error {
					if told++; told == tt.gone {
						return gone
					}
					return nil
				}, func(ctx context.Context) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(tt.takes):
						return tt.fails
					}
				})
				if !errors.Is(err, tt.want) || told != tt.told {
					t.Errorf("whileTelling = %v after %d tellings; want %v after %d", err, told, tt.want, tt.told)
				}
			})
		})
	}
}
