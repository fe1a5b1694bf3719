package api

import (
	_ "embed"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"
	"go.uber.org/zap"
)

// specYAML is the description of the public API, the contract of its answers.
//
//go:embed openapi.yaml
var specYAML []byte

func specAsJSON() ([]byte, error) {
	text, err := yaml.YAMLToJSON(specYAML)
	if err != nil {
		return nil, fmt.Errorf("convert openapi.yaml: %w", err)
	}
	return text, nil
}

func (s *Server) getSpecJSON(c *gin.Context) {
	text, err := s.specJSON()
	if err != nil {
		s.log.Error("API description cannot be shown", zap.Error(err))
		s.fail(c, problem(problemInternal, ""))
		return
	}
	s.send(c, http.StatusOK, contentTypeJSON, text)
}

func (s *Server) getSpecYAML(c *gin.Context) {
	s.send(c, http.StatusOK, "application/yaml", specYAML)
}
