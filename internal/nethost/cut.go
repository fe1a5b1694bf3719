package nethost

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Drop says which packets a host drops without a word. The host's own traffic
// with itself is never dropped.
type Drop struct {
	At *Host
	// In are packets that come to the host, Out those that leave it.
	In, Out bool
	// Peer is the address of the only other end that is concerned; empty: all.
	Peer string
	// Ports are those of TCP and UDP that are concerned, at either end of a
	// connection; none: all packets.
	Ports []int
}

// Cut is a set of drops in force.
type Cut struct {
	table string
	hosts []*Host
}

// Cut puts drops in force until Heal. Cuts may overlap: each has a table of
// rules of its own at each host, and is healed for itself.
func (n *Network) Cut(ctx context.Context, drops ...Drop) (*Cut, error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, fmt.Errorf("%w: cuts need nft (package nftables): %w", ErrUnavailable, err)
	}
	c := &Cut{table: "cut" + strconv.FormatInt(n.cuts.Add(1), 10)}
	rules := map[*Host][]Drop{}
	for _, d := range drops {
		if _, known := rules[d.At]; !known {
			c.hosts = append(c.hosts, d.At)
		}
		rules[d.At] = append(rules[d.At], d)
	}
	for _, h := range c.hosts {
		if err := h.run(ctx, ruleset(c.table, rules[h]), "nft", "-f", "-"); err != nil {
			return nil, errors.Join(fmt.Errorf("cut at %s: %w", h.Name, err), c.Heal(context.WithoutCancel(ctx)))
		}
	}
	return c, nil
}

// Heal lifts the cut.
func (c *Cut) Heal(ctx context.Context) error {
	var errs []error
	for _, h := range c.hosts {
		// Adding first makes it no error that the table is not there.
		script := fmt.Sprintf("add table inet %s\ndelete table inet %s\n", c.table, c.table)
		if err := h.run(ctx, script, "nft", "-f", "-"); err != nil {
			errs = append(errs, fmt.Errorf("heal cut at %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

// ruleset is a table that drops, in the language of nft.
func ruleset(table string, drops []Drop) string {
	var in, out []string
	for _, d := range drops {
		if d.In {
			in = append(in, d.rules("saddr")...)
		}
		if d.Out {
			out = append(out, d.rules("daddr")...)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", table)
	for _, c := range []struct {
		hook, own string
		rules     []string
	}{{"input", `iif "lo"`, in}, {"output", `oif "lo"`, out}} {
		fmt.Fprintf(&b, "chain %s {\ntype filter hook %s priority -10; policy accept;\n%s accept\n", c.hook, c.hook, c.own)
		for _, r := range c.rules {
			fmt.Fprintln(&b, r, "drop")
		}
		fmt.Fprintln(&b, "}")
	}
	fmt.Fprintln(&b, "}")
	return b.String()
}

// rules match the packets; peer is which address of a packet is the other end.
func (d Drop) rules(peer string) []string {
	match := ""
	if d.Peer != "" {
		match = "ip " + peer + " " + d.Peer + " "
	}
	if len(d.Ports) == 0 {
		if match == "" {
			// Everything of this family, and nothing that is not IP.
			match = "meta nfproto { ipv4, ipv6 } "
		}
		return []string{strings.TrimSpace(match)}
	}
	ports := make([]string, len(d.Ports))
	for i, p := range d.Ports {
		ports[i] = strconv.Itoa(p)
	}
	set := "{ " + strings.Join(ports, ", ") + " }"
	return []string{
		match + "meta l4proto { tcp, udp } th dport " + set,
		match + "meta l4proto { tcp, udp } th sport " + set,
	}
}
