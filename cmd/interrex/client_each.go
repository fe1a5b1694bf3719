package main

import (
	"context"
	"net/http"
	"sync"
)

// readEach asks every agent at the same time, and returns the answers of those
// that answer, in their order, and why the others did not.
func (c *apiClient) readEach(ctx context.Context, path string) (answers [][]byte, silent []error) {
	got, errs := make([][]byte, len(c.endpoints)), make([]error, len(c.endpoints))
	var asked sync.WaitGroup
	for i := range c.endpoints {
		asked.Go(func() {
			rctx, cancel := context.WithTimeout(ctx, readLimit)
			defer cancel()
			got[i], _, errs[i] = c.call(rctx, i, http.MethodGet, path, nil)
		})
	}
	asked.Wait()
	for i := range c.endpoints {
		if errs[i] != nil {
			silent = append(silent, errs[i])
		} else {
			answers = append(answers, got[i])
		}
	}
	return answers, silent
}
