//go:build race

package embedded_test

// raceEnabled: the race detector multiplies a process's memory.
const raceEnabled = true
