package nethost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Drop says which packets are dropped, at the wire of a host, without a word to
// anybody. The host's own traffic with itself is never dropped.
type Drop struct {
	At *Host
	// In are packets that come to the host, Out those that leave it.
	In, Out bool
	// Peer is the address of the only other end that is concerned; empty: all.
	Peer string
	// Ports are those of TCP and UDP that are concerned, at either end of a
	// connection; none: all packets.
	Ports []int
	// Protocol is the only one of Ports that is concerned, tcp or udp; empty: both.
	Protocol string
	// Percent is how many of the packets are dropped, at random; 0: all.
	Percent int
}

// Cut is a set of drops in force.
type Cut struct {
	table string
	hosts []*Host
}

// Cut puts drops in force until Heal. Cuts may overlap: each has tables of
// rules of its own, and is healed for itself.
func (n *Network) Cut(ctx context.Context, drops ...Drop) (*Cut, error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, fmt.Errorf("%w: cuts need nft (package nftables): %w", ErrUnavailable, err)
	}
	c := &Cut{table: "cut" + strconv.FormatInt(n.cuts.Add(1), 10)}
	in, out := map[*Host][]string{}, map[*Host][]string{}
	for _, d := range drops {
		if !slices.Contains(c.hosts, d.At) {
			c.hosts = append(c.hosts, d.At)
		}
		if d.In {
			in[d.At] = append(in[d.At], d.rules("saddr")...)
		}
		if d.Out {
			out[d.At] = append(out[d.At], d.rules("daddr")...)
		}
	}
	for _, h := range c.hosts {
		err := h.run(ctx, ruleset("inet", c.table, "hook input", in[h]), "nft", "-f", "-")
		if err == nil {
			// At the bridge's end of the wire, either one: a program whose
			// packets are dropped on its own host is told so.
			hook := fmt.Sprintf("hook ingress devices = { %q, %q }", h.wire, h.late)
			err = run(ctx, ruleset("netdev", c.table+h.wire, hook, out[h]), "nft", "-f", "-")
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cut at %s: %w", h.Name, err), c.Heal(context.WithoutCancel(ctx)))
		}
	}
	return c, nil
}

// Heal lifts the cut.
func (c *Cut) Heal(ctx context.Context) error {
	var errs []error
	for _, h := range c.hosts {
		err := errors.Join(
			h.run(ctx, removal("inet", c.table), "nft", "-f", "-"),
			run(ctx, removal("netdev", c.table+h.wire), "nft", "-f", "-"))
		if err != nil {
			errs = append(errs, fmt.Errorf("heal cut at %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

// ruleset is a table that drops, in the language of nft.
func ruleset(family, table, hook string, rules []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\nchain drops {\ntype filter %s priority -10; policy accept;\n", family, table, hook)
	if family == "inet" {
		fmt.Fprintln(&b, `iif "lo" accept`)
	}
	for _, r := range rules {
		fmt.Fprintln(&b, r, "drop")
	}
	fmt.Fprint(&b, "}\n}\n")
	return b.String()
}

// removal removes a table, if it is there.
func removal(family, table string) string {
	return fmt.Sprintf("add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, table)
}

// rules match the packets; peer is which address of a packet is the other end.
func (d Drop) rules(peer string) []string {
	chance := ""
	if d.Percent > 0 {
		chance = fmt.Sprintf(" numgen random mod 100 < %d", d.Percent)
	}
	match := ""
	if d.Peer != "" {
		match = "ip " + peer + " " + d.Peer + " "
	}
	if len(d.Ports) == 0 {
		if match == "" {
			match = "meta protocol { ip, ip6 } "
		}
		return []string{strings.TrimSpace(match) + chance}
	}
	ports := make([]string, len(d.Ports))
	for i, p := range d.Ports {
		ports[i] = strconv.Itoa(p)
	}
	set := "{ " + strings.Join(ports, ", ") + " }"
	match += "meta l4proto { " + cmp.Or(d.Protocol, "tcp, udp") + " } th "
	return []string{match + "dport " + set + chance, match + "sport " + set + chance}
}
