package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"interrex/internal/topology"
)

// promises is what a node must not forget: written and synced before the
// command that it belongs to acts.
type promises struct {
	Epoch topology.Epoch `json:"epoch"`
	// CertifiedBoot is the server process in which the instance was seen to
	// hold everything it can ever have acknowledged (I1, amnesia).
	CertifiedBoot string `json:"certified_boot"`
}

type promiseStore struct {
	file string
	mu   sync.Mutex
	p    promises
	// lost: there was no file that could be read whole; what was promised
	// before is not known.
	lost bool
}

func openPromises(file string) (*promiseStore, error) {
	s := &promiseStore{file: file}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		s.lost = true
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	// A torn file is a lost file: nothing is promised and nothing certified.
	if json.Unmarshal(raw, &s.p) != nil {
		s.p, s.lost = promises{}, true
	}
	return s, nil
}

func (s *promiseStore) forgotten() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

func (s *promiseStore) epoch() topology.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.Epoch
}

func (s *promiseStore) certified(boot string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return boot != "" && s.p.CertifiedBoot == boot
}

// boot is the server process that is certified; empty: none is.
func (s *promiseStore) boot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.CertifiedBoot
}

// promise records that epoch was seen; a lower one changes nothing.
func (s *promiseStore) promise(epoch topology.Epoch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch <= s.p.Epoch {
		return nil
	}
	next := s.p
	next.Epoch = epoch
	return s.save(next)
}

func (s *promiseStore) certify(boot string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.CertifiedBoot == boot {
		return nil
	}
	next := s.p
	next.CertifiedBoot = boot
	return s.save(next)
}

// save replaces the file by one that is on disk whole, then takes it over.
func (s *promiseStore) save(next promises) error {
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(s.file), ".promises-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	if _, err = tmp.Write(raw); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), s.file); err != nil {
		return err
	}
	s.p, s.lost = next, false
	return syncDir(filepath.Dir(s.file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func splitAddress(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: %w", addr, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: port: %w", addr, err)
	}
	return host, int(n), nil
}
