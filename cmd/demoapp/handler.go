package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"
)

const (
	// healthLimit bounds /health: less than the time its callers wait for it,
	// so that they hear a reason.
	healthLimit = 300 * time.Millisecond
	maxBody     = 4 << 10 // of a request, in bytes
	maxID       = 64      // of an order, in bytes
)

// handler answers requests.
type handler struct {
	orders *store
	limit  time.Duration // of a request
	log    *zap.Logger
}

func newHandler(orders *store, limit time.Duration, log *zap.Logger) http.Handler {
	h := &handler{orders: orders, limit: limit, log: log}
	engine := gin.New()
	// Nobody is believed about where a request came from. (It cannot fail: an
	// empty list has no wrong entry.)
	_ = engine.SetTrustedProxies(nil)
	engine.HandleMethodNotAllowed = true
	engine.Use(gin.CustomRecovery(func(c *gin.Context, fault any) {
		log.Error("request failed", zap.Any("panic", fault), zap.String("path", c.FullPath()))
		c.AbortWithStatusJSON(http.StatusInternalServerError, gin.H{"error": "internal error"})
	}))
	engine.GET("/health", h.health)
	engine.POST("/orders", h.addOrder)
	engine.GET("/orders/count", h.countOrders)
	engine.GET("/orders/:id", h.getOrder)
	return engine
}

func (h *handler) health(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), healthLimit)
	defer cancel()
	if err := h.orders.ping(ctx); err != nil {
		c.JSON(http.StatusServiceUnavailable, gin.H{"status": "unavailable", "error": errUnavailable.Error()})
		return
	}
	c.JSON(http.StatusOK, gin.H{"status": "ok"})
}

func (h *handler) addOrder(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
	var body struct {
		ID string `json:"id"`
	}
	if err := c.ShouldBindJSON(&body); err != nil {
		c.JSON(http.StatusBadRequest, gin.H{"error": `want a JSON object {"id": "…"}`})
		return
	}
	if !isOrderID(body.ID) {
		c.JSON(http.StatusBadRequest, gin.H{"error": "id: want 1 to 64 letters, digits and ._-, and not the word count"})
		return
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), h.limit)
	defer cancel()
	added, server, err := h.orders.add(ctx, body.ID)
	switch {
	case err != nil:
		h.fail(c, err)
	case added:
		c.JSON(http.StatusCreated, gin.H{"id": body.ID, "server_uuid": server})
	default:
		c.JSON(http.StatusOK, gin.H{"id": body.ID, "server_uuid": server, "note": "was stored already"})
	}
}

func (h *handler) getOrder(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), h.limit)
	defer cancel()
	if !isOrderID(c.Param("id")) {
		h.fail(c, errNotFound)
		return
	}
	o, err := h.orders.get(ctx, c.Param("id"))
	if err != nil {
		h.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, o)
}

func (h *handler) countOrders(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), h.limit)
	defer cancel()
	n, route, err := h.orders.count(ctx)
	if err != nil {
		h.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"count": n, "route": route})
}

// fail answers an error. What MySQL said goes to the log, not to the client.
func (h *handler) fail(c *gin.Context, err error) {
	switch {
	case errors.Is(err, errNotFound):
		c.JSON(http.StatusNotFound, gin.H{"error": errNotFound.Error()})
	case errors.Is(err, errUnavailable):
		h.log.Warn("database not available", zap.String("path", c.FullPath()), zap.Error(err))
		c.Header("Retry-After", "1")
		c.JSON(http.StatusServiceUnavailable, gin.H{"error": errUnavailable.Error(), "retry": true})
	default:
		h.log.Error("request failed", zap.String("path", c.FullPath()), zap.Error(err))
		c.JSON(http.StatusInternalServerError, gin.H{"error": "internal error"})
	}
}

// isOrderID tells whether a text may name an order. "count" is a path of ours.
func isOrderID(s string) bool {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	return s != "" && len(s) <= maxID && s != "count" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) })
}
