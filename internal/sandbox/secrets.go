package sandbox

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"interrex/internal/sandbox/fetch"
)

// Passwords are those of the accounts that exist on every server of a sandbox.
// They are part of the data directory template, which all sandboxes of a user
// share; so are they: random, made once per user.
type Passwords struct {
	Controller  string // the agents' account
	Replication string
	App         string
}

// passwords derives the accounts' passwords from the secret in the user's
// cache, which is made if it is missing.
func passwords(ctx context.Context) (Passwords, error) {
	cache, err := fetch.CacheDir()
	if err != nil {
		return Passwords{}, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Passwords{}, fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := fetch.Lock(ctx, filepath.Join(cache, "secret.lock"))
	if err != nil {
		return Passwords{}, err
	}
	defer unlock()
	path := filepath.Join(cache, "secret")
	secret, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret = []byte(randomHex(32))
		err = writePrivate(path, secret)
	}
	if err != nil {
		return Passwords{}, fmt.Errorf("read secret of sandboxes: %w", err)
	}
	derive := func(purpose string) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(purpose))
		return hex.EncodeToString(mac.Sum(nil)[:16])
	}
	return Passwords{Controller: derive("controller"), Replication: derive("replication"), App: derive("app")}, nil
}

// writeSecrets writes what is secret and random for this sandbox alone, and
// the accounts' passwords where agents read them.
func (c Cluster) writeSecrets(p Passwords) error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	for path, text := range map[string]string{
		c.OperatorTokenFile():       randomHex(32),
		c.MemberTokenFile():         randomHex(32),
		c.GossipKeyFile():           base64.StdEncoding.EncodeToString(key),
		c.ControllerPasswordFile():  p.Controller,
		c.ReplicationPasswordFile(): p.Replication,
	} {
		if err := writePrivate(path, []byte(text+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// appSQL makes the applications' database and account.
func appSQL(app App) []string {
	return []string{
		"CREATE DATABASE " + app.Database,
		fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED BY '%s'", app.User, app.Password),
		fmt.Sprintf("GRANT ALL ON %s.* TO '%s'@'%%'", app.Database, app.User),
	}
}
