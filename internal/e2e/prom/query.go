package prom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// Sample is one value of a query's answer.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Alert is an alert that Prometheus knows.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"` // pending or firing
	ActiveAt    time.Time         `json:"activeAt"`
}

// Query evaluates an expression now. A scalar is one sample without labels. It fails if Prometheus warns.
func (s *Server) Query(ctx context.Context, expression string) ([]Sample, error) {
	var answer struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	}
	if err := s.ask(ctx, "/api/v1/query", url.Values{"query": {expression}}, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expression, err)
	}
	type value [2]any // a time and a text
	read := func(v value, labels map[string]string) (Sample, error) {
		text, _ := v[1].(string)
		number, err := strconv.ParseFloat(text, 64)
		return Sample{labels, number}, err
	}
	switch answer.ResultType {
	case "scalar":
		var v value
		if err := json.Unmarshal(answer.Result, &v); err != nil {
			return nil, err
		}
		one, err := read(v, nil)
		return []Sample{one}, err
	case "vector":
		var vector []struct {
			Metric map[string]string `json:"metric"`
			Value  value             `json:"value"`
		}
		if err := json.Unmarshal(answer.Result, &vector); err != nil {
			return nil, err
		}
		samples := make([]Sample, len(vector))
		for i, v := range vector {
			var err error
			if samples[i], err = read(v.Value, v.Metric); err != nil {
				return nil, err
			}
		}
		return samples, nil
	}
	return nil, fmt.Errorf("%s: a %s is no answer of an instant query", expression, answer.ResultType)
}

// Series returns all series that a selector has had since a time.
func (s *Server) Series(ctx context.Context, selector string, since time.Time) ([]map[string]string, error) {
	var answer []map[string]string
	err := s.ask(ctx, "/api/v1/series", url.Values{"match[]": {selector}, "start": {since.Format(time.RFC3339)}},
		&answer)
	return answer, err
}

// LabelValues returns the values that a label has in the series of a selector, as a dashboard's variable asks for them.
func (s *Server) LabelValues(ctx context.Context, label, selector string) ([]string, error) {
	var answer []string
	parameters := url.Values{}
	if selector != "" {
		parameters.Set("match[]", selector)
	}
	err := s.ask(ctx, "/api/v1/label/"+url.PathEscape(label)+"/values", parameters, &answer)
	return answer, err
}

// Alerts returns the alerts that are pending or firing.
func (s *Server) Alerts(ctx context.Context) ([]Alert, error) {
	var answer struct {
		Alerts []Alert `json:"alerts"`
	}
	err := s.ask(ctx, "/api/v1/alerts", nil, &answer)
	return answer.Alerts, err
}

// ask makes a request of the API and reads its data.
func (s *Server) ask(ctx context.Context, path string, parameters url.Values, data any) error {
	body, err := s.client.get(ctx, path, parameters)
	var answer struct {
		Status   string          `json:"status"`
		Data     json.RawMessage `json:"data"`
		Error    string          `json:"error"`
		Warnings []string        `json:"warnings"`
	}
	if err != nil && len(body) == 0 {
		return err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w in %.200s", err, body)
	}
	switch {
	case answer.Status != "success":
		return errors.New(answer.Error)
	case len(answer.Warnings) > 0:
		return fmt.Errorf("warnings: %q", answer.Warnings)
	}
	return json.Unmarshal(answer.Data, data)
}

// caller makes requests to the server.
type caller struct {
	base   string
	client *http.Client
}

func newCaller(base string) caller { return caller{base, harness.NewClient()} }

func (c caller) close() {
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// get returns the body also of a response that is an error.
func (c caller) get(ctx context.Context, path string, parameters url.Values) ([]byte, error) {
	at := c.base + path
	if len(parameters) > 0 {
		at += "?" + parameters.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, res.Status)
	}
	return body, err
}
