package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// awaitHealth asks every agent again and again until one of them has an open
// primary and all others a following replica.
func (c Cluster) awaitHealth(ctx context.Context, o Options) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.HealthLimit, errors.New("time is up"))
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var seen sights // by the last look that was not cut short
	for {
		if look := c.look(ctx, client); ctx.Err() == nil || seen == nil {
			seen = look
		}
		if primary := seen.primary(); primary != "" {
			fmt.Fprintf(o.Out, "Cluster %s is healthy after %.1f s: primary %s, %d replicas follow\n",
				c.Name, time.Since(began).Seconds(), primary, len(c.Nodes)-1)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a healthy cluster: %w; last seen:\n%s", context.Cause(ctx), c.describe(ctx, seen))
		case <-ticker.C:
		}
	}
}

// sight is what one agent answered: its status codes, and its words where it
// is not well.
type sight struct {
	node                     string
	health, primary, replica int
	words                    string
}

type sights []sight

// primary is the name of the primary of a healthy cluster; empty for one that
// is not.
func (s sights) primary() string {
	primary, replicas := "", 0
	for _, one := range s {
		switch {
		case one.health != http.StatusOK:
			return ""
		case one.primary == http.StatusOK && primary == "":
			primary = one.node
		case one.replica == http.StatusOK:
			replicas++
		}
	}
	if replicas != len(s)-1 {
		return ""
	}
	return primary
}

// look asks all agents at once.
func (c Cluster) look(ctx context.Context, client *http.Client) sights {
	seen := make(sights, len(c.Nodes))
	var asked sync.WaitGroup
	for i, n := range c.Nodes {
		asked.Go(func() {
			s := sight{node: n.Name}
			var words [3]string
			s.health, words[0] = get(ctx, client, n, "/health")
			if s.health != 0 {
				s.primary, words[1] = get(ctx, client, n, "/primary")
				s.replica, words[2] = get(ctx, client, n, "/replica")
			}
			s.words = strings.Join(words[:], " ")
			seen[i] = s
		})
	}
	asked.Wait()
	return seen
}

// get returns the status code, 0 for no answer, and what went wrong.
func get(ctx context.Context, client *http.Client, n Node, path string) (int, string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+Addr(n.Ports.API)+path, http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return response.StatusCode, ""
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
		return response.StatusCode, path + ": " + problem.Detail
	}
	return response.StatusCode, path + ": " + strings.TrimSpace(string(body))
}

// describe tells what was last seen, with the end of the log of agents that
// do not answer.
func (c Cluster) describe(ctx context.Context, seen sights) string {
	var b strings.Builder
	for i, s := range seen {
		fmt.Fprintf(&b, "%s: health %d, primary %d, replica %d %s\n", s.node, s.health, s.primary, s.replica, s.words)
		if s.health == 0 {
			fmt.Fprintf(&b, "%s\n", tail(c.Nodes[i].AgentLog()))
		}
	}
	if status, err := c.Status(context.WithoutCancel(ctx)); err == nil {
		for _, n := range status.Nodes {
			fmt.Fprintf(&b, "%s: mysqld %s, agent %s %s\n", n.Name, n.MySQL.State, n.Agent.State, n.Agent.Detail)
		}
	}
	return b.String()
}
