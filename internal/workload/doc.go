// Package workload is a client of a cluster that keeps count: writers that
// insert rows through routes, each with an identity of its own, and remember
// which of them were acknowledged, refused, or left without an answer. From
// that it tells what a client saw (the longest outage, the errors) and,
// afterwards, whether any acknowledged row is missing.
//
// Drills, the demo, benchmarks and tests measure with it. It knows nothing of
// agents: it sees what an application would see. It never repeats a write:
// a row is tried once and its outcome remembered.
//
// Start reading at Run.
package workload
