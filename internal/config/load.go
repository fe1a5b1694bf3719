package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
)

// Defaults is a configuration with every default set and nothing else: it has
// no members and no instance.
func Defaults() Config {
	var cfg Config
	setDefaults(reflect.ValueOf(&cfg).Elem())
	return cfg
}

// DefaultMySQL is the mysql section with every default set.
func DefaultMySQL() MySQL {
	var section MySQL
	setDefaults(reflect.ValueOf(&section).Elem())
	return section
}

// DefaultMember is a voter with every default set.
func DefaultMember() Member {
	var member Member
	setDefaults(reflect.ValueOf(&member).Elem())
	return member
}

// Load reads and checks the configuration file at path, and the secrets and
// certificates it names. The error is Faults, all there are at once, when the
// file could be read; otherwise it is why it could not. Relative paths in the
// returned Config are resolved against the file's folder.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("read configuration: %w; `interrex config example` prints one", err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("find folder of configuration: %w", err)
	}
	cfg, d := parse(path, data)
	resolvePaths(reflect.ValueOf(&cfg).Elem(), folder)
	checkFiles(&cfg, d)
	if len(d.faults) > 0 {
		d.faults.sort()
		return Config{}, d.faults
	}
	complete(&cfg)
	return cfg, nil
}

// Parse checks a configuration file's text without looking at the files it
// names. File is the name told in faults. The error is Faults. Relative paths
// are left as they are.
func Parse(file string, data []byte) (Config, error) {
	cfg, d := parse(file, data)
	if len(d.faults) > 0 {
		d.faults.sort()
		return Config{}, d.faults
	}
	complete(&cfg)
	return cfg, nil
}

// parse reads and checks the text; the faults are in the decoder.
func parse(file string, data []byte) (Config, *decoder) {
	cfg := Defaults()
	d := newDecoder(file)
	d.decode(data, &cfg)
	if cfg.Detection.Profile == WAN {
		cfg.Detection = wanWindows()
		_, heartbeat := d.places["etcd.heartbeat"]
		_, election := d.places["etcd.election"]
		if !heartbeat && !election {
			cfg.Etcd.Heartbeat, cfg.Etcd.Election = wanHeartbeat, wanElection
		}
	}
	if len(d.places) > 0 {
		check(&cfg, d)
	}
	return cfg, d
}

// complete sets what follows from other keys. The configuration is checked.
func complete(cfg *Config) {
	if cfg.Etcd.DataDir == "" && cfg.Etcd.Mode == Embedded {
		cfg.Etcd.DataDir = filepath.Join(cfg.Node.DataDir, "etcd")
	}
	if cfg.Etcd.Mode == Embedded && cfg.Etcd.TLS.IsZero() {
		cfg.Etcd.TLS = cfg.Security.TLS
	}
	if cfg.MySQL == nil {
		return
	}
	self := cfg.OwnMember()
	if cfg.MySQL.Address == "" {
		cfg.MySQL.Address = self.MySQL
	}
	if cfg.MySQL.AdminAddress == "" {
		cfg.MySQL.AdminAddress = self.MySQLAdmin
	}
}

// resolvePaths makes every path of a section absolute.
func resolvePaths(section reflect.Value, folder string) {
	for _, f := range fields(section.Type()) {
		value := section.Field(f.index)
		switch {
		case f.kind.Kind() == reflect.Struct:
			resolvePaths(value, folder)
		case f.kind.Kind() == reflect.Pointer && !value.IsNil():
			resolvePaths(value.Elem(), folder)
		case f.isSectionList():
			for i := range value.Len() {
				resolvePaths(value.Index(i), folder)
			}
		case f.kind.Kind() == reflect.String && isPathForm(f.tag.Get("form")):
			if path := value.String(); path != "" && !filepath.IsAbs(path) {
				value.SetString(filepath.Join(folder, path))
			}
		}
	}
}

func isPathForm(form string) bool { return form == "path" || form == "file" || form == "secret" }
