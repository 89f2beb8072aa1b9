package main

import (
	"fmt"
	"io"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// family is what scrapes show of a metric: its type, and every label that one of its series has.
type family struct {
	Type   dto.MetricType
	Labels map[string]bool
}

// families are the metrics that a Prometheus has of relays, by the names that expressions use.
type families map[string]family

// newFamilies returns what every target has, whatever it serves.
func newFamilies() families {
	return families{"up": {dto.MetricType_GAUGE, targetLabels()}}
}

// targetLabels are those that Prometheus adds to every series.
func targetLabels() map[string]bool { return map[string]bool{"job": true, "instance": true} }

// add takes in what a scrape has.
func (f families) add(scrape io.Reader) error {
	text := expfmt.NewTextParser(model.LegacyValidation)
	parsed, err := text.TextToMetricFamilies(scrape)
	if err != nil {
		return fmt.Errorf("reading a scrape: %w", err)
	}
	for name, metric := range parsed {
		labels := targetLabels()
		for _, series := range metric.GetMetric() {
			for _, label := range series.GetLabel() {
				labels[label.GetName()] = true
			}
		}
		switch metric.GetType() {
		case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
			f.join(name+"_sum", dto.MetricType_COUNTER, labels)
			f.join(name+"_count", dto.MetricType_COUNTER, labels)
			withBound := targetLabels()
			for label := range labels {
				withBound[label] = true
			}
			withBound["le"] = true
			f.join(name+"_bucket", dto.MetricType_COUNTER, withBound)
		case dto.MetricType_SUMMARY:
			f.join(name+"_sum", dto.MetricType_COUNTER, labels)
			f.join(name+"_count", dto.MetricType_COUNTER, labels)
			fallthrough
		case dto.MetricType_COUNTER, dto.MetricType_GAUGE, dto.MetricType_UNTYPED:
			f.join(name, metric.GetType(), labels)
		}
	}
	return nil
}

// join adds the labels of one more scrape to a metric.
func (f families) join(name string, of dto.MetricType, labels map[string]bool) {
	known, ok := f[name]
	if !ok {
		known = family{of, map[string]bool{}}
	}
	for label := range labels {
		known.Labels[label] = true
	}
	f[name] = known
}
