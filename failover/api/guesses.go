package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	guessBurst    = 20  // wrong tokens an address may show at once
	guessRate     = 0.5 // and per second afterwards
	guessersLimit = 1024
)

// guesses counts wrong tokens by address. It holds at most guessersLimit
// addresses: when more come, those who may guess again anyway are forgotten
// first.
type guesses struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

func newGuesses() *guesses { return &guesses{by: map[string]*rate.Limiter{}} }

// allowed tells whether peer may show a token at now.
func (g *guesses) allowed(peer string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.by[peer]
	return l == nil || l.TokensAt(now) >= 1
}

// wrong notes that peer showed a wrong token.
func (g *guesses) wrong(peer string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.by[peer]
	if l == nil {
		if len(g.by) >= guessersLimit {
			g.forget(now)
		}
		l = rate.NewLimiter(guessRate, guessBurst)
		g.by[peer] = l
	}
	l.AllowN(now, 1)
}

// forget halves what is remembered, so that it costs little per address.
func (g *guesses) forget(now time.Time) {
	for peer, l := range g.by {
		if l.TokensAt(now) >= guessBurst {
			delete(g.by, peer)
		}
	}
	for peer := range g.by {
		if len(g.by) <= guessersLimit/2 {
			return
		}
		delete(g.by, peer)
	}
}
