// Package config is the agent's configuration file: its keys, their defaults,
// and every check that can be made before anything is started.
//
// It owns the YAML file and nothing else: it opens no listener, asks no server
// and decides nothing. Parse never stops at the first fault: each one is told
// with file, line, column, key and what to do about it, all at once.
//
// What holds for a Config that Load returned: every key has its default, every
// relative path is resolved, the own member is in the member list, limits agree
// with each other, secrets are files only their owner can read, and no listener
// of the members is reachable from another host without TLS, tokens and a
// gossip key.
//
// The doc comments of the fields are the manual: Example and Reference print
// them, so they say unit, default and what more or less of it costs.
//
// Start reading at Config, then Load.
package config
