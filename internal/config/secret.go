package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"
)

// minTokenLength is the least length of a token, in characters: 16 of base64
// hold 96 random bits.
const minTokenLength = 16

// gossipKeyLength is the length of a gossip key in bytes: AES-256.
const gossipKeyLength = 32

// ErrUnsafeSecret is returned for a secret file that somebody besides its
// owner could have read, or that is not this user's. Change the file's mode or
// owner.
var ErrUnsafeSecret = errors.New("secret file is not private")

// ReadSecret reads a file that holds one secret, without the line break at its
// end. It returns ErrUnsafeSecret unless the file is this user's and nobody
// else may read or change it.
func ReadSecret(path string) (string, error) {
	if problem, fix := secretFault(path); problem != "" {
		return "", fmt.Errorf("read secret %s: %s; %s: %w", path, problem, fix, ErrUnsafeSecret)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// ReadGossipKey reads a gossip key file: 32 bytes in base64.
func ReadGossipKey(path string) ([]byte, error) {
	text, err := ReadSecret(path)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != gossipKeyLength {
		return nil, fmt.Errorf("read gossip key %s: not %d bytes in base64", path, gossipKeyLength)
	}
	return key, nil
}

// checkFiles checks every secret and certificate the configuration names.
func checkFiles(cfg *Config, d *decoder) {
	checkFilesOf("", reflect.ValueOf(cfg).Elem(), d)
	for _, token := range []struct{ key, path string }{
		{"security.operator_token_file", cfg.Security.OperatorTokenFile},
		{"security.member_token_file", cfg.Security.MemberTokenFile},
	} {
		if token.path == "" || d.faulty[token.key] {
			continue
		}
		if text, err := ReadSecret(token.path); err == nil && len(text) < minTokenLength {
			d.fault(token.key, fmt.Sprintf("%s holds %d characters, which can be guessed", token.path, len(text)), "write a longer one: openssl rand -hex 32")
		}
	}
	if path := cfg.Gossip.KeyFile; path != "" && !d.faulty["gossip.key_file"] {
		if _, err := ReadGossipKey(path); err != nil {
			d.fault("gossip.key_file", fmt.Sprintf("%s does not hold %d bytes in base64", path, gossipKeyLength), "write one: openssl rand -base64 32")
		}
	}
	checkPair("security.tls", cfg.Security.TLS, d)
	checkPair("etcd.tls", cfg.Etcd.TLS, d)
	if cfg.MySQL != nil {
		t := cfg.MySQL.TLS
		checkPair("mysql.tls", TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile}, d)
	}
}

// checkFilesOf checks that the files of a section are there, and that its
// secrets are private.
func checkFilesOf(path string, section reflect.Value, d *decoder) {
	for _, f := range fields(section.Type()) {
		value, keyPath := section.Field(f.index), join(path, f.key)
		switch {
		case f.kind.Kind() == reflect.Struct:
			checkFilesOf(keyPath, value, d)
		case f.kind.Kind() == reflect.Pointer && !value.IsNil():
			checkFilesOf(keyPath, value.Elem(), d)
		case f.tag.Get("form") == "secret" && value.String() != "":
			if problem, fix := secretFault(value.String()); problem != "" {
				d.fault(keyPath, problem, fix)
			}
		case f.tag.Get("form") == "file" && value.String() != "":
			if problem, fix := fileFault(value.String()); problem != "" {
				d.fault(keyPath, problem, fix)
			}
		}
	}
}

// fileFault says what is wrong with a file that must be readable.
func fileFault(path string) (problem, fix string) {
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " does not exist", "create it, or correct the path"
	case err != nil:
		return fmt.Sprintf("%s cannot be read: %v", path, errors.Unwrap(err)), "let the agent's user read it"
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return path + " is not a file", "name a file"
	}
	return "", ""
}

// secretFault says what is wrong with a file that must be private besides.
func secretFault(path string) (problem, fix string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		if owner, known := info.Sys().(*syscall.Stat_t); known && int(owner.Uid) != os.Geteuid() {
			return fmt.Sprintf("%s belongs to user id %d, the agent runs as %d", path, owner.Uid, os.Geteuid()),
				fmt.Sprintf("run this as the agent's user, or: chown %d %s", os.Geteuid(), path)
		}
		if others := info.Mode().Perm() & 0o077; others != 0 {
			return fmt.Sprintf("%s can be used by others (mode %04o)", path, info.Mode().Perm()), "chmod 600 " + path
		}
	}
	if problem, fix = fileFault(path); problem != "" {
		return problem, fix
	}
	if info != nil && info.Size() == 0 {
		return path + " is empty", "write the secret into it"
	}
	return "", ""
}

// checkPair checks that certificates are PEM and the key belongs to its
// certificate. Files that are not there have been told of already.
func checkPair(path string, t TLS, d *decoder) {
	if t.CAFile != "" && !d.faulty[path+".ca_file"] {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
			d.fault(path+".ca_file", t.CAFile+" holds no certificate", "name a PEM file")
		}
	}
	if t.CertFile == "" || t.KeyFile == "" || d.faulty[path+".cert_file"] || d.faulty[path+".key_file"] {
		return
	}
	if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
		d.fault(path+".cert_file", fmt.Sprintf("%s and %s are not a pair: %v", t.CertFile, t.KeyFile, err), "name a certificate and its own key, both PEM")
	}
}
