// Package demo is what `interrex demo` has around a sandbox: a Gin tier behind
// nginx, HTTP load on it, and the timeline that tells what happens.
//
// It owns the folder "tier" in the sandbox's folder and the processes of the
// tier: one that supervises, nginx, and the services. It knows nothing of
// agents and decides nothing: nginx's upstream blocks belong to the agent that
// is told so, and are only read here.
//
// nginx overwrites its environment, so that a sandbox cannot find it by its
// mark. Therefore the tier has a supervisor of its own, which Stop ends
// together with all it started; whoever takes a sandbox down calls Stop first.
//
// Start reading at tier.go.
package demo
