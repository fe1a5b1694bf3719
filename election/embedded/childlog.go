package embedded

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// newChildLog logs to file, sampled: an etcd member in trouble can write
// thousands of lines a second. Errors, and warnings that an operator must act
// on, go to stderr as well, one plain line each, where the agent reads them.
func newChildLog(file string) (*zap.Logger, func()) {
	rotated := &lumberjack.Logger{Filename: file, MaxSize: 10, MaxBackups: 2}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	toFile := zapcore.NewSamplerWithOptions(
		zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.AddSync(rotated), zap.InfoLevel),
		time.Second, 20, 0)
	log := zap.New(zapcore.NewTee(toFile, &plainCore{told: &told{last: make(map[string]time.Time)}}))
	return log, func() {
		_ = log.Sync()
		_ = rotated.Close()
	}
}

// plainCore writes what the agent should know to stderr, each message at most
// once in repeatAfter.
type plainCore struct {
	fields []zapcore.Field
	told   *told
}

const repeatAfter = 30 * time.Second

type told struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (t *told) again(message string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[message]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	t.last[message] = now
	return true
}

// actionable are messages that etcd logs as warnings only.
func actionable(message string) bool {
	for _, part := range []string{"ID mismatch", "rejected connection", "slow fdatasync", "NOSPACE", "alarm", "server error", "joins its cluster", "joined its cluster"} {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}

// Enabled implements zapcore.Core.
func (c *plainCore) Enabled(level zapcore.Level) bool { return level >= zap.WarnLevel }

// With implements zapcore.Core.
func (c *plainCore) With(fields []zapcore.Field) zapcore.Core {
	return &plainCore{fields: append(c.fields[:len(c.fields):len(c.fields)], fields...), told: c.told}
}

// Check implements zapcore.Core.
func (c *plainCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) && (entry.Level >= zap.ErrorLevel || actionable(entry.Message)) && c.told.again(entry.Message, entry.Time) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c *plainCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	line := entry.Message
	if cause, ok := values.Fields["error"]; ok {
		line = fmt.Sprintf("%s: %v", line, cause)
	}
	for _, name := range []string{"remote-peer-id", "remote-member-id", "local-cluster-id", "local-member-cluster-id", "remote-cluster-id", "remote-peer-cluster-id", "remote-addr"} {
		if value, ok := values.Fields[name]; ok {
			line = fmt.Sprintf("%s %s=%v", line, name, value)
		}
	}
	_, err := fmt.Fprintln(os.Stderr, explain(errors.New(line)))
	return err
}

// Sync implements zapcore.Core.
func (c *plainCore) Sync() error { return nil }
