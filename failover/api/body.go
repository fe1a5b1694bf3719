package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// readBody reads the JSON text of a POST. It answers the request itself and
// returns false if there is none to work with.
func (s *Server) readBody(c *gin.Context, limit int64) ([]byte, bool) {
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || media != contentTypeJSON || c.GetHeader("Content-Encoding") != "" {
		s.fail(c, problem(problemMediaType, "got "+strings.TrimSpace(c.GetHeader("Content-Encoding")+" "+c.GetHeader("Content-Type"))))
		return nil, false
	}
	data, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, limit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		s.fail(c, problem(problemTooLarge, fmt.Sprintf("the limit is %d bytes", limit)))
		return nil, false
	}
	if err != nil {
		s.fail(c, problem(problemBadRequest, "the body could not be read"))
		return nil, false
	}
	// From here on the work may take as long as it needs: the deadline of
	// the reading side would cancel the request's context.
	_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Time{})
	return data, true
}

// decodeStrict reads one flat JSON object into the struct that into points to
// and returns every fault: unknown, repeated and null fields, wrong types, text
// after the object. No text at all is an empty object.
func decodeStrict(data []byte, into any) []FieldFault {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	fields := jsonFields(into)
	var faults []FieldFault
	fault := func(field, format string, args ...any) {
		faults = append(faults, FieldFault{field, fmt.Sprintf(format, args...)})
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		fault("", "the body must be a JSON object")
		return faults
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			fault("", "the JSON is malformed: %v", err)
			return faults
		}
		name, _ := key.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			fault(name, "the JSON is malformed: %v", err)
			return faults
		}
		field, known := fields[name]
		switch {
		case !known:
			fault(name, "unknown field")
		case seen[name]:
			fault(name, "given more than once")
		case string(raw) == "null" || json.Unmarshal(raw, field.Addr().Interface()) != nil:
			fault(name, "must be a %s", field.Kind())
		}
		seen[name] = true
	}
	if _, err := dec.Token(); err != nil {
		fault("", "the JSON is malformed: %v", err)
	} else if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		fault("", "there is text after the JSON object")
	}
	return faults
}

// jsonFields are the fields of the struct that into points to, by JSON name.
func jsonFields(into any) map[string]reflect.Value {
	v := reflect.ValueOf(into).Elem()
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = v.Field(i)
	}
	return fields
}

// badRequest answers with the faults.
func (s *Server) badRequest(c *gin.Context, faults ...FieldFault) {
	var said []string
	for _, f := range faults {
		said = append(said, strings.TrimPrefix(f.Field+": "+f.Message, ": "))
	}
	p := problem(problemBadRequest, strings.Join(said, "; "))
	p.Fields = faults
	s.fail(c, p)
}
