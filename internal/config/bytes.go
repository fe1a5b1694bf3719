package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Bytes is a size. In the file it is a whole number with B, KiB, MiB or GiB.
type Bytes int64

// units is the units of Bytes, largest first.
func units() []struct {
	name string
	size Bytes
} {
	return []struct {
		name string
		size Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}
}

// String prints the size with the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units() {
		if b != 0 && b%u.size == 0 {
			return fmt.Sprintf("%d%s", b/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// ParseBytes reads what String prints.
func ParseBytes(s string) (Bytes, error) {
	for _, u := range units() {
		digits, found := strings.CutSuffix(s, u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > int64(1<<62)/int64(u.size) {
			return 0, fmt.Errorf("parse size %q: not a whole number before %s", s, u.name)
		}
		return Bytes(n) * u.size, nil
	}
	return 0, fmt.Errorf("parse size %q: unit is missing", s)
}
