package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// awaitHealth asks every agent again and again until all of them work, see the
// same primary, and call the cluster healthy: the primary open, every replica
// following and acknowledging.
func (c Cluster) awaitHealth(ctx context.Context, o Options) error {
	token, err := os.ReadFile(c.OperatorTokenFile())
	if err != nil {
		return fmt.Errorf("read operator token: %w", err)
	}
	client, err := c.HTTPClient()
	if err != nil {
		return err
	}
	client.Timeout = 2 * time.Second
	defer client.CloseIdleConnections()
	ask := asker{client: client, token: strings.TrimSpace(string(token)), replicas: len(c.Nodes) - 1}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.HealthLimit, errors.New("time is up"))
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	var seen sights // by the last look that was not cut short
	for {
		if look := c.look(ctx, ask); ctx.Err() == nil || seen == nil {
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

// sight is what one agent answered.
type sight struct {
	node    string
	answers bool
	primary string // whom it sees as the primary of a healthy cluster
	words   string // why it sees none
}

type sights []sight

// primary is the name of the primary that every agent sees; empty if one does
// not work, sees another or finds the cluster unhealthy.
func (s sights) primary() string {
	for _, one := range s {
		if one.primary == "" || one.primary != s[0].primary {
			return ""
		}
	}
	return s[0].primary
}

// look asks all agents at once.
func (c Cluster) look(ctx context.Context, ask asker) sights {
	seen := make(sights, len(c.Nodes))
	var asked sync.WaitGroup
	for i, n := range c.Nodes {
		asked.Go(func() { seen[i] = ask.node(ctx, n) })
	}
	asked.Wait()
	return seen
}

// asker asks agents.
type asker struct {
	client *http.Client
	token  string
	// replicas is how many there must be.
	replicas int
}

func (a asker) node(ctx context.Context, n Node) sight {
	s := sight{node: n.Name}
	body, err := a.get(ctx, n, "/health")
	s.answers = body != nil
	if err != nil {
		s.words = err.Error()
		return s
	}
	body, err = a.get(ctx, n, "/api/v1/cluster")
	if err != nil {
		s.words = err.Error()
		return s
	}
	var cluster struct {
		Status  string   `json:"status"`
		Reasons []string `json:"reasons"`
		Primary *struct {
			Node string `json:"node"`
		} `json:"primary"`
		Members []struct {
			Role string `json:"role"`
		} `json:"members"`
	}
	if err := json.Unmarshal(body, &cluster); err != nil {
		s.words = err.Error()
		return s
	}
	replicas := 0
	for _, m := range cluster.Members {
		if m.Role == "replica" {
			replicas++
		}
	}
	s.words = cluster.Status + ": " + strings.Join(cluster.Reasons, "; ")
	// As many as there are: a member that has yet to register is no reason
	// for the cluster to feel unwell.
	if cluster.Status == "healthy" && cluster.Primary != nil && replicas == a.replicas {
		s.primary = cluster.Primary.Node
	}
	return s
}

// get returns the body of an answer; with an error unless it is 200, and nil
// if there was no answer.
func (a asker) get(ctx context.Context, n Node, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.APIBase()+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask agent: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	response, err := a.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask agent: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask agent: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return body, fmt.Errorf("%s answers %d: %s", path, response.StatusCode, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// describe tells what was last seen, with the end of the log of agents that
// do not answer.
func (c Cluster) describe(ctx context.Context, seen sights) string {
	var b strings.Builder
	for i, s := range seen {
		fmt.Fprintf(&b, "%s: %s\n", s.node, s.words)
		if !s.answers {
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
