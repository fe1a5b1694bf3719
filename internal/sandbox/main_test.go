package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestMain lets the test binary be what the sandbox runs: the real supervisor,
// and a small program in place of the agent, which has its own tests.
func TestMain(m *testing.M) {
	args := os.Args[1:]
	switch {
	case len(args) == 4 && args[0] == "sandbox" && args[1] == "supervise":
		if err := Supervise(context.Background(), args[3], zap.NewNop()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(args) == 3 && args[0] == "agent":
		beAgent(args[2])
	default:
		os.Exit(m.Run())
	}
}

// agentConfig is the configuration of the program in the agent's place.
type agentConfig struct {
	API     string
	Healthy bool
}

// beAgent answers as an agent does, and has a child of its own, as an agent
// has its etcd.
func beAgent(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	var config agentConfig
	if err := json.Unmarshal(text, &config); err != nil {
		panic(err)
	}
	if err := exec.Command("sleep", "300").Start(); err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if !config.Healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "that is how this test wants it")
		}
	})
	mux.HandleFunc("/api/v1/cluster", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status":"healthy","reasons":[],"primary":{"node":"db1"},"members":[{"role":"primary"},{"role":"replica"}]}`)
	})
	server := http.Server{Addr: config.API, Handler: mux, ReadHeaderTimeout: time.Second}
	panic(server.ListenAndServe())
}
