package fetch

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// source is one archive that the machine's apt is configured to use.
type source struct {
	URI        string
	Suites     []string
	Components []string
	// SignedBy is a path or a fingerprint list, or an inline key block; empty
	// means the keys in trusted.gpg.d.
	SignedBy string
	// Options are the other options of a classic line that matter to
	// reaching or trusting the archive.
	Options []string
}

// readSources reads every archive named by dir/sources.list and by the files
// in dir/sources.list.d, in both formats, in the order apt reads them.
func readSources(dir string) ([]source, error) {
	files := []string{filepath.Join(dir, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		matches, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", pattern))
		files = append(files, matches...)
	}
	var all []source
	for _, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt configuration: %w", err)
		}
		if strings.HasSuffix(file, ".sources") {
			all = append(all, parseDeb822(string(text))...)
		} else {
			all = append(all, parseList(string(text))...)
		}
	}
	return all, nil
}

var listLine = regexp.MustCompile(`^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)(?:\s+(.*))?$`)

// parseList reads the classic format, one archive a line. Lines that are not
// understood are apt's business, and passed over.
func parseList(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		m := listLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		s := source{URI: m[2], Suites: []string{m[3]}, Components: strings.Fields(m[4])}
		for _, option := range strings.Fields(m[1]) {
			key, value, _ := strings.Cut(option, "=")
			switch strings.ToLower(key) {
			case "signed-by":
				s.SignedBy = value
			case "check-valid-until", "valid-until-max":
				s.Options = append(s.Options, option)
			}
		}
		all = append(all, s)
	}
	return all
}

// parseDeb822 reads the stanza format.
func parseDeb822(text string) []source {
	var all []source
	for _, fields := range stanzas(text) {
		if strings.EqualFold(fields["enabled"], "no") || !slices.Contains(strings.Fields(fields["types"]), "deb") {
			continue
		}
		s := source{
			Suites:     strings.Fields(fields["suites"]),
			Components: strings.Fields(fields["components"]),
			SignedBy:   fields["signed-by"],
		}
		if value := fields["check-valid-until"]; value != "" {
			s.Options = append(s.Options, "check-valid-until="+value)
		}
		for _, uri := range strings.Fields(fields["uris"]) {
			one := s
			one.URI = uri
			all = append(all, one)
		}
	}
	return all
}

// stanzas splits deb822 text into its paragraphs' fields; names are in lower
// case, continuation lines are joined by newlines.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	current := map[string]string{}
	var last string
	flush := func() {
		if len(current) > 0 {
			all = append(all, current)
		}
		current, last = map[string]string{}, ""
	}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				current[last] = strings.TrimPrefix(current[last]+"\n"+strings.TrimSpace(line), "\n")
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if ok {
				last = strings.ToLower(strings.TrimSpace(name))
				current[last] = strings.TrimSpace(value)
			}
		}
	}
	flush()
	return all
}

// stanza prints the source in the stanza format, which every living apt reads.
func (s source) stanza() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\n", s.URI, strings.Join(s.Suites, " "))
	if len(s.Components) > 0 {
		fmt.Fprintf(&b, "Components: %s\n", strings.Join(s.Components, " "))
	}
	if s.SignedBy != "" {
		fmt.Fprintf(&b, "Signed-By: %s\n", strings.ReplaceAll(s.SignedBy, "\n", "\n "))
	}
	for _, option := range s.Options {
		key, value, _ := strings.Cut(option, "=")
		fmt.Fprintf(&b, "%s: %s\n", key, value)
	}
	return b.String()
}

// plan is one attempt: a set of archives to take the packages from.
type plan struct {
	why     string
	sources []source
}

// plans lists where the packages may be had, best first. On Debian the
// release has no MySQL, the development suite of the same mirror has; every
// other distribution carries it, and all carry nginx, in their own suites.
func plans(p product, osRelease map[string]string, sources []source, keyring string) []plan {
	var all []plan
	if len(sources) > 0 {
		all = append(all, plan{why: "the suites this machine is configured for", sources: sources})
	}
	if !p.newer || osRelease["ID"] != "debian" {
		return all
	}
	var development []plan
	seen := map[string]bool{}
	for _, s := range sources {
		if seen[s.URI] || !carriesRelease(s, osRelease["VERSION_CODENAME"]) {
			continue
		}
		seen[s.URI] = true
		s.Suites, s.Components = []string{"unstable"}, []string{"main"}
		if keyring != "" {
			s.SignedBy = keyring
		}
		if strings.Contains(s.URI, "/archive/debian/") { // a dated snapshot: its index has expired by design
			s.Options = append(slices.Clone(s.Options), "check-valid-until=no")
		}
		development = append(development, plan{why: "suite unstable of " + s.URI, sources: []source{s}})
	}
	return append(development, all...)
}

// carriesRelease tells whether the archive is the distribution's main one,
// rather than security updates or somebody else's packages.
func carriesRelease(s source, codename string) bool {
	if !slices.Contains(s.Components, "main") {
		return false
	}
	names := []string{codename, "stable", "testing", "unstable", "sid", "oldstable"}
	return slices.ContainsFunc(s.Suites, func(suite string) bool { return slices.Contains(names, suite) })
}

// readOSRelease reads the KEY=value lines of an os-release file.
func readOSRelease(path string) map[string]string {
	values := map[string]string{}
	text, err := os.ReadFile(path)
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return values
}
