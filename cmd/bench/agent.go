package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
)

// agent is one member's API.
type agent struct {
	sandbox.NodeInfo
	token string
	http  *http.Client
}

// cluster asks for the cluster at a glance.
func (a agent) cluster(ctx context.Context) (api.Cluster, error) {
	var c api.Cluster
	return c, a.call(ctx, http.MethodGet, "/api/v1/cluster", nil, &c)
}

// switchover asks for the best candidate, and returns when that is over. One
// that was begun and undone is no error: the ledger tells of it. One that a gate
// refused is errDisturbed.
func (a agent) switchover(ctx context.Context) error {
	var report api.Report
	err := a.call(ctx, http.MethodPost, "/api/v1/switchover", api.SwitchoverRequest{Wait: true}, &report)
	var p *problemError
	switch {
	case !errors.As(err, &p):
		return err
	case p.Report != nil:
		return nil
	case p.Gate != nil:
		return fmt.Errorf("%w: %w", errDisturbed, err)
	default:
		return err
	}
}

// ended waits until an operation of a later epoch than the given one has
// brought writes back, and returns the ledger's entries since, newest first.
func (a agent) ended(ctx context.Context, epoch topology.Epoch) ([]api.Report, error) {
	var since []api.Report
	err := await(ctx, func() (bool, error) {
		var l api.ReportList
		if err := a.call(ctx, http.MethodGet, "/api/v1/failovers?limit=10", nil, &l); err != nil {
			return false, err
		}
		since = nil
		for _, r := range l.Failovers {
			if r.Epoch > epoch {
				since = append(since, r)
			}
		}
		if len(since) == 0 {
			return false, errors.New("no operation has begun")
		}
		last := since[0]
		return last.Outcome == failover.Completed || last.Outcome == failover.Undone,
			fmt.Errorf("%s of epoch %d is %s: %s", last.Kind, last.Epoch, last.Outcome, last.Reason)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the operation after epoch %d: %w", epoch, err)
	}
	return since, nil
}

// problemError is an answer that is no success.
type problemError struct{ api.Problem }

func (e *problemError) Error() string { return e.Title + ": " + e.Detail }

func (a agent) call(ctx context.Context, method, path string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+a.Agent.API+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := a.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		p := &problemError{}
		if err := json.Unmarshal(answer, &p.Problem); err != nil {
			return fmt.Errorf("ask agent %s: %s", path, response.Status)
		}
		return fmt.Errorf("ask agent %s: %w", path, p)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("understand the answer to %s: %w", path, err)
	}
	return nil
}
