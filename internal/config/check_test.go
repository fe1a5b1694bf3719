package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/config"
)

// guards are what a listener beyond loopback needs.
var guards = []string{"ca_file", "cert_file", "key_file", "operator_token_file", "member_token_file", "gossip"}

// guarded is a file with every guard but one; none is left out for "".
func guarded(listener, address, without string) string {
	has := func(name, line string) string {
		if name == without {
			return ""
		}
		return line
	}
	return base + "listeners: {" + listener + ": \"" + address + "\"}\n" +
		has("gossip", "gossip: {key_file: gossip.key}\n") +
		"security:\n" +
		has("operator_token_file", "  operator_token_file: operator.token\n") +
		has("member_token_file", "  member_token_file: member.token\n") +
		"  tls:\n    {" +
		has("ca_file", "ca_file: ca.pem, ") + has("cert_file", "cert_file: cert.pem, ") + has("key_file", "key_file: key.pem") + "}\n"
}

// TestExposedListenersNeedEveryGuard is requirement A1: each listener of the
// members beyond loopback, with each guard missing, is refused.
func TestExposedListenersNeedEveryGuard(t *testing.T) {
	for _, listener := range []string{"api", "gossip", "etcd_client", "etcd_peer"} {
		for _, address := range []string{"0.0.0.0:9000", ":9000", "[::]:9000", "10.1.2.3:9000", "db1.example.com:9000"} {
			_, err := config.Parse("", []byte(guarded(listener, address, "")))
			require.NoError(t, err)
			for _, missing := range guards {
				t.Run(listener+" "+address+" without "+missing, func(t *testing.T) {
					_, err := config.Parse("", []byte(guarded(listener, address, missing)))
					require.ErrorContains(t, err, "listeners."+listener+": "+address+" can be reached from other hosts")
					require.ErrorContains(t, err, missing)
					require.NotContains(t, err.Error(), "no effect")
				})
			}
		}
		for _, address := range []string{"127.0.0.1:9000", "127.9.9.9:9000", "[::1]:9000", "localhost:9000"} {
			_, err := config.Parse("", []byte(valid+"listeners: {"+listener+": \""+address+"\"}\n"))
			require.NoError(t, err)
		}
	}
}

// TestProxiesMayBeReached: the proxies only pass on what MySQL itself guards.
func TestProxiesMayBeReached(t *testing.T) {
	_, err := config.Parse("", []byte(valid+"listeners: {rw: \"0.0.0.0:6446\", ro: \"0.0.0.0:6447\"}\n"))
	require.NoError(t, err)
}

func TestListenersDoNotCollide(t *testing.T) {
	for _, ro := range []string{"127.0.0.1:8460", "0.0.0.0:8460", ":8460", "localhost:8460"} {
		_, err := config.Parse("", []byte(valid+"listeners: {ro: \""+ro+"\"}\n"))
		require.ErrorContains(t, err, "listeners.ro: "+ro+" is taken by listeners.api (127.0.0.1:8460)")
	}
	_, err := config.Parse("", []byte(valid+"listeners: {rw: \"\", ro: \"\"}\n"))
	require.NoError(t, err)
}

// topologyOf is valid with other members: how many have an instance (the
// first of them is the own one), how many more have none, and how many of the
// former may be promoted.
func topologyOf(instances, others, promotable, acks int) string {
	var b strings.Builder
	b.WriteString("cluster:\n  name: shop\n  members:\n")
	for i := range instances + others {
		fmt.Fprintf(&b, "    - {name: db%d, host: 127.0.0.%d", i+1, i+1)
		if i < instances {
			fmt.Fprintf(&b, ", mysql: \"127.0.0.%d:3306\"", i+1)
		}
		if i >= promotable {
			b.WriteString(", priority: -1")
		}
		b.WriteString("}\n")
	}
	_, rest, _ := strings.Cut(valid, "node:")
	return b.String() + "node:" + rest + fmt.Sprintf("durability: {acks: %d}\n", acks)
}

func TestTopologiesThatCannotFailOver(t *testing.T) {
	const acks, promotion, majority = "left to acknowledge", "allows promotion", "when its host is dead"
	for _, c := range []struct {
		name                               string
		instances, others, promotable, ack int
		want                               []string // the warnings of this kind, in order
		fix                                string
	}{
		{"three", 3, 0, 3, 1, nil, ""},
		{"three of which one is never promoted", 3, 0, 2, 1, nil, ""},
		{"two", 2, 0, 2, 1, []string{acks, majority}, "list 3 members with an instance"},
		{"two and an arbiter", 2, 1, 2, 1, []string{acks, majority}, "list 3 members with an instance"},
		{"three and a router", 3, 1, 3, 1, []string{majority}, "list fewer members without an instance"},
		{"five and two routers", 5, 2, 5, 1, nil, ""},
		{"every replica must acknowledge", 3, 0, 3, 2, []string{acks}, "list 4 members with an instance, or lower durability.acks to 1"},
		{"five and two acknowledge", 5, 0, 5, 2, nil, ""},
		{"one may be promoted", 3, 0, 1, 1, []string{promotion}, "at least two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := config.Parse("", []byte(topologyOf(c.instances, c.others, c.promotable, c.ack)))
			require.NoError(t, err)
			told := strings.Join(cfg.Warnings(), "\n")
			for _, kind := range []string{acks, promotion, majority} {
				require.Equal(t, slices.Contains(c.want, kind), strings.Contains(told, kind), "%s in:\n%s", kind, told)
			}
			require.Contains(t, told, c.fix)
		})
	}
}

func TestSitesThatCannotBeHad(t *testing.T) {
	members := func(sites ...string) string {
		var b strings.Builder
		for i, site := range sites {
			fmt.Fprintf(&b, "    - {name: db%d, host: 127.0.0.%d, mysql: \"127.0.0.%d:3306\"", i+1, i+1, i+1)
			if site != "" {
				b.WriteString(", site: " + site)
			}
			b.WriteString("}\n")
		}
		return b.String()
	}
	for _, c := range []struct {
		name    string
		need    int
		sites   []string
		refused string
		warned  string
	}{
		{"three sites, one other", 1, []string{"a", "b", "c"}, "", ""},
		{"two sites, one other", 1, []string{"a", "a", "b"}, "", "the loss of any one of them"},
		{"three sites, two others", 2, []string{"a", "b", "c"}, "", "the loss of any one of them"},
		{"three sites, three others", 3, []string{"a", "b", "c"}, "durability.sites: 3 needs 4 sites, the members with an instance are in 3", ""},
		{"one site", 1, []string{"a", "a", "a"}, "every write would wait for ever", ""},
		{"one has none", 1, []string{"a", "b", ""}, "cluster.members[2].site: is missing, and durability.sites counts them", ""},
		{"not asked for", 0, []string{"", "", ""}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := topologyOf(3, 0, 3, 1)
			at, end := strings.Index(text, "  members:\n")+len("  members:\n"), strings.Index(text, "node:")
			text = text[:at] + members(c.sites...) + text[end:]
			if c.need > 0 {
				text = strings.Replace(text, "durability: {", fmt.Sprintf("durability: {sites: %d, ", c.need), 1)
			}
			cfg, err := config.Parse("", []byte(text))
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				return
			}
			require.NoError(t, err)
			told := strings.Join(cfg.Warnings(), "\n")
			require.Equal(t, c.warned != "", strings.Contains(told, "durability.sites"), told)
			require.Contains(t, told, c.warned)
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"two voters", "priority: -1}", "voter: false}", "2 voting"},
		{"four voters", "node:", "    - {name: arb, host: 127.0.0.4}\nnode:", "4 voting"},
		{"unreachable", "name: db1, host: 127.0.0.1", "name: db1, host: 10.0.0.1", "listeners.api is on loopback"},
		{"other port", "name: db1, host: 127.0.0.1, mysql: \"127.0.0.1:3306\", ports: {api: 8460", "name: db1, host: 127.0.0.1, mysql: \"127.0.0.1:3306\", ports: {api: 9460", "told port 9460"},
		{"plain text", `mysql: "127.0.0.1:3307"`, `mysql: "10.0.0.2:3307"`, "plain text"},
		{"objective", "node:", "objectives: {rto: 100ms}\nnode:", "objectives.rto is 100ms"},
		{"a crash may outlast the objective", "node:", "failover: {on_crash: restart_first}\nnode:", "out for 10s before another takes over"},
		{"no token", "", "", "operator_token_file is not set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := config.Parse("", []byte(strings.Replace(valid, c.from, c.to, 1)))
			require.NoError(t, err)
			require.Contains(t, strings.Join(cfg.Warnings(), "\n"), c.want)
		})
	}
}

func TestFlappingFitsTogether(t *testing.T) {
	for _, c := range []struct{ name, failover, fault string }{
		{"default", "{automatic: true}", ""},
		{"no limit", "{flap_limit: 0, flap_cooldown: 1h}", ""},
		{"the last cool-down is too long", "{flap_limit: 4, flap_cooldown: 15m}", "failover.flap_cooldown: 15m, doubled for each"},
		{"as long as the window", "{flap_limit: 3, flap_cooldown: 30m}", "is not less than flap_window (1h)"},
		{"just shorter", "{flap_limit: 3, flap_cooldown: 29m}", ""},
		{"a hundred doublings", "{flap_limit: 100, flap_cooldown: 1s}", "failover.flap_cooldown"},
		{"a hundred times nothing", "{flap_limit: 100, flap_cooldown: 0s}", ""},
		{"grace without its policy", "{restart_grace: 5s}", "restart_grace"},
		{"grace", "{on_crash: restart_first, restart_grace: 5s}", ""},
		{"grace as long as the window", "{on_crash: restart_first, restart_grace: 1m, flap_window: 1m}", "failover.restart_grace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse("", []byte(valid+"failover: "+c.failover+"\n"))
			if c.fault == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.fault)
			}
		})
	}
}

// secrets is a folder with a valid file and all it names.
func secrets(t *testing.T) (folder, file string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range map[string]string{
		"mysql.password": "p", "repl.password": "p",
		"operator.token": strings.Repeat("o", 32), "member.token": strings.Repeat("m", 32),
		"gossip.key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
	} {
		write(t, folder, name, text+"\n", 0o600)
	}
	writePair(t, folder)
	return folder, write(t, folder, "agent.yaml", guarded("api", "0.0.0.0:8460", ""), 0o644)
}

func writePair(t *testing.T, folder string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db1"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, folder, "cert.pem", cert, 0o644)
	write(t, folder, "ca.pem", cert, 0o644)
	write(t, folder, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})), 0o600)
}

// TestSecretsMustBePrivate is requirement A16: each secret is checked before
// anything starts.
func TestSecretsMustBePrivate(t *testing.T) {
	_, file := secrets(t)
	_, err := config.Load(file)
	require.NoError(t, err)

	spoil := map[string]struct {
		do   func(path string) error
		want string
	}{
		"readable by the group": {func(p string) error { return os.Chmod(p, 0o640) }, "can be used by others (mode 0640); chmod 600"},
		"readable by all":       {func(p string) error { return os.Chmod(p, 0o604) }, "can be used by others (mode 0604)"},
		"missing":               {os.Remove, "does not exist; create it"},
		"empty":                 {func(p string) error { return os.Truncate(p, 0) }, "is empty"},
		"a folder":              {func(p string) error { return joinErr(os.Remove(p), os.Mkdir(p, 0o700)) }, "is not a file"},
	}
	for _, name := range []string{"mysql.password", "repl.password", "operator.token", "member.token", "gossip.key", "key.pem"} {
		for how, s := range spoil {
			t.Run(name+" "+how, func(t *testing.T) {
				folder, file := secrets(t)
				path := filepath.Join(folder, name)
				require.NoError(t, s.do(path))
				_, err := config.Load(file)
				require.ErrorContains(t, err, path)
				require.ErrorContains(t, err, s.want)
				require.Regexp(t, `agent\.yaml:\d+:\d+: `, err.Error())
				_, err = config.ReadSecret(path)
				if how != "missing" {
					require.ErrorIs(t, err, config.ErrUnsafeSecret)
				}
			})
		}
	}
}

// TestSecretOfAnotherUser needs root to make one.
func TestSecretOfAnotherUser(t *testing.T) {
	folder, file := secrets(t)
	path := filepath.Join(folder, "operator.token")
	if err := os.Chown(path, os.Geteuid()+1, -1); err != nil {
		require.NotZero(t, os.Geteuid(), "root may change owners: %v", err)
		return
	}
	_, err := config.Load(file)
	require.ErrorContains(t, err, fmt.Sprintf("belongs to user id %d", os.Geteuid()+1))
}

func TestContentsOfSecrets(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"operator.token", "short\n", "security.operator_token_file: "},
		{"member.token", "short\n", "holds 5 characters, which can be guessed"},
		{"gossip.key", "AAAA\n", "does not hold 32 bytes in base64"},
		{"gossip.key", "not base64!\n", "openssl rand -base64 32"},
		{"ca.pem", "nothing\n", "holds no certificate"},
		{"cert.pem", "nothing\n", "are not a pair"},
	} {
		t.Run(c.name+" "+c.text, func(t *testing.T) {
			folder, file := secrets(t)
			write(t, folder, c.name, c.text, 0o600)
			_, err := config.Load(file)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), strings.TrimSpace(c.text)+";", "a secret is in the error")
		})
	}
}

func TestReadSecretTrimsTheLineBreakOnly(t *testing.T) {
	path := write(t, t.TempDir(), "secret", " a b \r\n", 0o400)
	got, err := config.ReadSecret(path)
	require.NoError(t, err)
	require.Equal(t, " a b ", got)
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]config.Bytes{"128MiB": 128 << 20, "2GiB": 2 << 30, "1KiB": 1024, "5B": 5, "0B": 0} {
		got, err := config.ParseBytes(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", "5", "MiB", "-1MiB", "1.5GiB", "9999999999GiB", "5MB"} {
		_, err := config.ParseBytes(text)
		require.Error(t, err, text)
	}
}

// TestParseSurvivesAnything: cut or damaged files give faults, never a panic.
func TestParseSurvivesAnything(t *testing.T) {
	for i := 0; i < len(valid); i += 11 {
		_, _ = config.Parse("", []byte(valid[:i]))
		for _, with := range []string{"\x00", "{", "]", "&", "*a", "!", "|", "\n", "?", "<<: "} {
			_, _ = config.Parse("", []byte(valid[:i]+with+valid[i+1:]))
		}
	}
}

func joinErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
