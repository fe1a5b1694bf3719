package fetch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseList(t *testing.T) {
	tests := map[string]struct {
		text string
		want []source
	}{
		"plain": {
			"deb http://mirror.example/debian bookworm main contrib\n",
			[]source{{URI: "http://mirror.example/debian", Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}}},
		},
		"sources, comments and blank lines are passed over": {
			"# deb http://a.example/debian sid main\n\ndeb-src http://mirror.example/debian bookworm main\n",
			nil,
		},
		"options": {
			"deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg check-valid-until=no trusted=yes] https://m.example/debian sid main # why\n",
			[]source{{
				URI: "https://m.example/debian", Suites: []string{"sid"}, Components: []string{"main"},
				SignedBy: "/usr/share/keyrings/k.gpg", Options: []string{"check-valid-until=no"},
			}},
		},
		"list of mirrors": {
			"deb mirror+file:/etc/apt/mirrors/debian.list trixie main",
			[]source{{URI: "mirror+file:/etc/apt/mirrors/debian.list", Suites: []string{"trixie"}, Components: []string{"main"}}},
		},
		"flat archive": {
			"deb file:/srv/packages ./",
			[]source{{URI: "file:/srv/packages", Suites: []string{"./"}, Components: []string{}}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, parseList(tt.text)) })
	}
}

func TestParseDeb822(t *testing.T) {
	tests := map[string]struct {
		text string
		want []source
	}{
		"two stanzas, one disabled": {
			"Types: deb deb-src\n# a comment\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/k.gpg\n\nEnabled: no\nTypes: deb\nURIs: http://x.example\nSuites: x\n",
			[]source{{
				URI: "http://m.example/debian", Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main"},
				SignedBy: "/usr/share/keyrings/k.gpg",
			}},
		},
		"only sources": {"Types: deb-src\nURIs: http://m.example/debian\nSuites: sid\nComponents: main\n", nil},
		"several mirrors, continuation lines": {
			"Types: deb\nURIs: http://a.example/ubuntu\n http://b.example/ubuntu\nSuites: noble\nComponents: main universe\nCheck-Valid-Until: no\n",
			[]source{
				{URI: "http://a.example/ubuntu", Suites: []string{"noble"}, Components: []string{"main", "universe"}, Options: []string{"check-valid-until=no"}},
				{URI: "http://b.example/ubuntu", Suites: []string{"noble"}, Components: []string{"main", "universe"}, Options: []string{"check-valid-until=no"}},
			},
		},
		"key in the file": {
			"Types: deb\nURIs: http://a.example\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n",
			[]source{{
				URI: "http://a.example", Suites: []string{"s"}, Components: []string{"main"},
				SignedBy: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----",
			}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := parseDeb822(tt.text)
			require.Equal(t, tt.want, got)
			for _, s := range got { // what is written is read as the same
				require.Equal(t, []source{s}, parseDeb822(s.stanza()))
			}
		})
	}
}

func TestReadSourcesReadsBothFormats(t *testing.T) {
	dir := t.TempDir()
	parts := filepath.Join(dir, "sources.list.d")
	require.NoError(t, os.Mkdir(parts, 0o755))
	for path, text := range map[string]string{
		filepath.Join(dir, "sources.list"):         "deb http://one.example/debian bookworm main",
		filepath.Join(parts, "two.list"):           "deb http://two.example/debian bookworm main",
		filepath.Join(parts, "three.sources"):      "Types: deb\nURIs: http://three.example\nSuites: s\n",
		filepath.Join(parts, "four.list.disabled"): "deb http://four.example/debian bookworm main",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	sources, err := readSources(dir)
	require.NoError(t, err)
	var uris []string
	for _, s := range sources {
		uris = append(uris, s.URI)
	}
	require.Equal(t, []string{"http://one.example/debian", "http://two.example/debian", "http://three.example"}, uris)
}

func TestPlans(t *testing.T) {
	main := source{URI: "http://m.example/debian", Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main"}}
	security := source{URI: "http://m.example/debian-security", Suites: []string{"bookworm-security"}, Components: []string{"main"}}
	other := source{URI: "http://vendor.example/apt", Suites: []string{"nodistro"}, Components: []string{"main"}, SignedBy: "/k"}
	snapshot := source{URI: "http://s.example/archive/debian/20250520T000000Z", Suites: []string{"bookworm"}, Components: []string{"main"}}
	ubuntu := source{URI: "http://m.example/ubuntu", Suites: []string{"noble"}, Components: []string{"main", "universe"}}
	debian := map[string]string{"ID": "debian", "VERSION_CODENAME": "bookworm"}
	tests := map[string]struct {
		product product
		release map[string]string
		sources []source
		want    []string
	}{
		"MySQL on Debian comes from unstable of its own mirror": {
			mysqlProduct(), debian, []source{main, security, other},
			[]string{"suite unstable of http://m.example/debian", "the suites this machine is configured for"},
		},
		"a snapshot has unstable too": {
			mysqlProduct(), debian, []source{snapshot},
			[]string{"suite unstable of http://s.example/archive/debian/20250520T000000Z", "the suites this machine is configured for"},
		},
		"one mirror named twice is tried once": {
			mysqlProduct(), debian, []source{main, main},
			[]string{"suite unstable of http://m.example/debian", "the suites this machine is configured for"},
		},
		"Ubuntu has MySQL itself": {
			mysqlProduct(), map[string]string{"ID": "ubuntu", "VERSION_CODENAME": "noble"}, []source{ubuntu},
			[]string{"the suites this machine is configured for"},
		},
		"nginx comes from the machine's own suites": {
			nginxProduct(), debian, []source{main, security},
			[]string{"the suites this machine is configured for"},
		},
		"nothing configured": {mysqlProduct(), debian, nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range plans(tt.product, tt.release, tt.sources, "/keys.gpg") {
				got = append(got, p.why)
			}
			require.Equal(t, tt.want, got)
		})
	}
	t.Run("keys of the distribution, expired index of a snapshot", func(t *testing.T) {
		s := plans(mysqlProduct(), debian, []source{snapshot}, "/keys.gpg")[0].sources[0]
		require.Equal(t, "/keys.gpg", s.SignedBy)
		require.Equal(t, []string{"unstable"}, s.Suites)
		require.Equal(t, []string{"check-valid-until=no"}, s.Options)
	})
}

func TestAptConfigKeepsTheWayAndTheChecks(t *testing.T) {
	got := aptConfig("/d", `APT::Update::Post-Invoke:: "rm -rf /";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::AllowInsecureRepositories "true";
Acquire::IndexTargets::deb::Extra::MetaKey "x";
Dir::Etc::parts "apt.conf.d";
`)
	require.Contains(t, got, `Acquire::http::Proxy "http://proxy.example:3128";`)
	require.NotContains(t, got, "Post-Invoke")
	require.NotContains(t, got, `AllowInsecureRepositories "true"`)
	require.NotContains(t, got, "Extra")
	require.Contains(t, got, `Dir::State "/d/state";`)
}

func TestParseURIs(t *testing.T) {
	out := `Reading package lists...
'http://m.example/pool/z/zlib1g_1.3-1_amd64.deb' zlib1g_1%3a1.3-1_amd64.deb 92424 SHA256:00
'http://m.example/pool/p/perl-base_5_amd64.deb' perl-base_5.42.3-1_amd64.deb 1877832 SHA256:00
'http://m.example/pool/m/mysql-server-core_9_amd64.deb' mysql-server-core_9.7.4-2_amd64.deb 26124236 SHA256:00
`
	require.Equal(t, []debFile{
		{name: "zlib1g", version: "1:1.3-1", size: 92424},
		{name: "mysql-server-core", version: "9.7.4-2", size: 26124236},
	}, parseURIs(out))
}
