package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checkScalar checks a value by its field's tags alone. It returns what is
// wrong and the fix, or two empty texts.
func checkScalar(f field, v reflect.Value) (problem, fix string) {
	if len(f.oneof) > 0 && !slices.Contains(f.oneof, v.String()) {
		fix = "write " + alternatives(f.oneof)
		if near := nearestWord(v.String(), f.oneof); near != "" && len(f.oneof) > 2 {
			fix = "did you mean " + near + "? It may be " + alternatives(f.oneof)
		}
		return fmt.Sprintf("%q is not a choice", v.String()), fix
	}
	if v.Kind() == reflect.Int || v.Kind() == reflect.Int64 {
		return checkRange(f, v)
	}
	if v.Kind() == reflect.String && v.String() != "" {
		return checkForm(f.tag.Get("form"), v.String())
	}
	return "", ""
}

// checkRange checks a number, duration or size against min and max.
func checkRange(f field, v reflect.Value) (problem, fix string) {
	bound := reflect.New(v.Type()).Elem()
	if text := f.tag.Get("min"); text != "" {
		if err := setScalar(bound, text); err == nil && v.Int() < bound.Int() {
			return valueText(v) + " is too small", "the least is " + text
		}
	}
	if text := f.tag.Get("max"); text != "" {
		if err := setScalar(bound, text); err == nil && v.Int() > bound.Int() {
			return valueText(v) + " is too large", "the most is " + text
		}
	}
	return "", ""
}

func valueText(v reflect.Value) string { return text(v) }

// checkForm checks what a text must look like.
func checkForm(form, s string) (problem, fix string) {
	switch form {
	case "name":
		if !matches(`^[a-z0-9][a-z0-9-]{0,62}$`, s) {
			return fmt.Sprintf("%q is not a name", s), "use lower-case letters, digits and dashes, at most 63, not a dash first"
		}
	case "upstream":
		if !matches(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`, s) {
			return fmt.Sprintf("%q is not an upstream name", s), "use letters, digits, dots, dashes and underscores"
		}
	case "host":
		if !isHost(s) {
			return fmt.Sprintf("%q is not a host", s), "write an IP address or a DNS name, without port"
		}
	case "hostport":
		return checkHostPort(s)
	case "url":
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return fmt.Sprintf("%q is not an etcd endpoint", s), "write it as https://host:2379"
		}
	case "urlpath":
		if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\r\n#") {
			return fmt.Sprintf("%q is not a path", s), "begin it with /"
		}
	case "path", "file", "secret":
		if strings.ContainsAny(s, "\x00\n\r") {
			return "holds a line break", "write one path"
		}
	}
	return "", ""
}

// checkHostPort checks host:port; an empty host means every address.
func checkHostPort(s string) (problem, fix string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Sprintf("%q is not host:port", s), "write it as 127.0.0.1:8460, an IPv6 address as [::1]:8460"
	}
	if host != "" && !isHost(host) {
		return fmt.Sprintf("%q is not a host", host), "write an IP address or a DNS name before the port"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Sprintf("%q is not a port", port), "write a number from 1 to 65535 after the colon"
	}
	return "", ""
}

// isHost tells whether s is an IP address or a DNS name.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return len(s) <= 253 && matches(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?$`, s)
}

// isLoopback tells whether an address of the form host:port can be reached
// from this host only.
func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	return err == nil && isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }
