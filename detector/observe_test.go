package detector

import (
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func observe() (zapcore.Core, *observer.ObservedLogs) { return observer.New(zapcore.DebugLevel) }
