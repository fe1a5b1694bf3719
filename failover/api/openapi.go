package api

import (
	_ "embed"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"
)

//go:embed openapi.yaml
var specYAML []byte

// spec is the description of the API in both notations.
type spec struct{ json, yaml []byte }

func loadSpec() (spec, error) {
	asJSON, err := yaml.YAMLToJSON(specYAML)
	if err != nil {
		return spec{}, fmt.Errorf("convert openapi.yaml: %w", err)
	}
	return spec{json: asJSON, yaml: specYAML}, nil
}

func (s *Server) getSpecJSON(c *gin.Context) {
	s.send(c, http.StatusOK, contentTypeJSON, s.spec.json)
}

func (s *Server) getSpecYAML(c *gin.Context) {
	s.send(c, http.StatusOK, "application/yaml", s.spec.yaml)
}
