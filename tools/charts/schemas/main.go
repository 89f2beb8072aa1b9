// Command schemas makes the JSON schemas that the Helm chart's output is validated against, one file a kind, from what
// the projects publish themselves: Kubernetes' OpenAPI document and Prometheus Operator's custom resource definitions,
// both taken out of their Go modules. Every object refuses fields it does not name, descriptions are left out, and each
// definition appears once in a file. Begin reading at run.
//
//	go -C tools/charts run ./schemas ../../deploy/helm/schemas
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// The oldest Kubernetes that the chart's kubeVersion admits, and the newest there was: output that both take suits
// those between.
var kubernetesVersions = []string{"v1.30.14", "v1.37.2"}

const operatorVersion = "v0.85.0"

// kinds are those the chart renders, by their names in Kubernetes' OpenAPI document and as kubeconform asks for them
// (KindSuffix: a group's first word).
var kinds = map[string]string{
	"io.k8s.api.apps.v1.Deployment":            "deployment-apps-v1",
	"io.k8s.api.apps.v1.StatefulSet":           "statefulset-apps-v1",
	"io.k8s.api.core.v1.ConfigMap":             "configmap-v1",
	"io.k8s.api.core.v1.Pod":                   "pod-v1",
	"io.k8s.api.core.v1.Service":               "service-v1",
	"io.k8s.api.core.v1.ServiceAccount":        "serviceaccount-v1",
	"io.k8s.api.networking.v1.Ingress":         "ingress-networking-v1",
	"io.k8s.api.networking.v1.NetworkPolicy":   "networkpolicy-networking-v1",
	"io.k8s.api.policy.v1.PodDisruptionBudget": "poddisruptionbudget-policy-v1",
}

type schema = map[string]any

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: schemas DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

// The ready-made collections of such schemas lie on hosts that a machine with nothing but package registries cannot
// reach, so the schemas that are needed are kept in the repository.
func run(dir string) error {
	for _, version := range kubernetesVersions {
		source, err := module("k8s.io/kubernetes", version)
		if err != nil {
			return err
		}
		if err := kubernetes(filepath.Join(source, "api/openapi-spec/swagger.json"), filepath.Join(dir, version),
			"k8s.io/kubernetes@"+version); err != nil {
			return err
		}
	}
	operator, err := module("github.com/prometheus-operator/prometheus-operator", operatorVersion)
	if err != nil {
		return err
	}
	for _, kind := range []string{"ServiceMonitor", "PrometheusRule"} {
		crd := filepath.Join(operator,
			"example/prometheus-operator-crd/monitoring.coreos.com_"+strings.ToLower(kind)+"s.yaml")
		source := "github.com/prometheus-operator/prometheus-operator@" + operatorVersion
		if err := operators(kind, crd, filepath.Join(dir, "prometheus-operator-"+operatorVersion), source); err != nil {
			return err
		}
	}
	return nil
}

// module returns the directory of a module's source, which is loaded by the Go proxy if it is not here yet and checked
// against the checksum database.
func module(path, version string) (string, error) {
	//nolint:gosec // names from this file
	out, err := exec.Command("go", "mod", "download", "-json", path+"@"+version).Output()
	if err != nil {
		return "", fmt.Errorf("download %s@%s: %w", path, version, err)
	}
	var answer struct{ Dir string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", fmt.Errorf("read where %s@%s lies: %w", path, version, err)
	}
	return answer.Dir, nil
}

// kubernetes writes one file for each kind, with the definitions it stands on.
func kubernetes(document, dir, source string) error {
	raw, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	var openapi struct{ Definitions map[string]schema }
	if err := json.Unmarshal(raw, &openapi); err != nil {
		return fmt.Errorf("read %s: %w", document, err)
	}
	for name, file := range kinds {
		used := map[string]schema{}
		for open := []string{name}; len(open) > 0; open = open[1:] {
			if used[open[0]] != nil {
				continue
			}
			definition, ok := openapi.Definitions[open[0]]
			if !ok {
				return fmt.Errorf("%s defines no %s", document, open[0])
			}
			used[open[0]] = strict(definition)
			open = append(open, references(definition)...)
		}
		root := used[name]
		if err := identified(root, openapi.Definitions[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delete(used, name)
		if err := write(filepath.Join(dir, file+".json"), source, root, used); err != nil {
			return err
		}
	}
	return nil
}

// identified ties the schema to its kind: a document of another group under the same file name must not pass.
func identified(root, definition schema) error {
	kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
	properties, _ := root["properties"].(schema)
	if len(kinds) != 1 || properties == nil {
		return fmt.Errorf("has %d kinds", len(kinds))
	}
	kind, _ := kinds[0].(schema)
	apiVersion := fmt.Sprint(kind["version"])
	if group := fmt.Sprint(kind["group"]); group != "" {
		apiVersion = group + "/" + apiVersion
	}
	properties["apiVersion"] = schema{"type": "string", "enum": []any{apiVersion}}
	properties["kind"] = schema{"type": "string", "enum": []any{kind["kind"]}}
	root["required"] = []any{"apiVersion", "kind", "metadata"}
	return nil
}

// operators takes the schema of a kind out of its custom resource definition, which stands alone.
func operators(kind, definition, dir, source string) error {
	raw, err := os.ReadFile(definition)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		return fmt.Errorf("read %s: %w", definition, err)
	}
	if len(crd.Spec.Versions) != 1 || crd.Spec.Versions[0].Name != "v1" {
		return fmt.Errorf("%s has other versions than v1 alone", definition)
	}
	root := strict(crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	properties := root["properties"].(schema)
	properties["apiVersion"] = schema{"type": "string", "enum": []any{"monitoring.coreos.com/v1"}}
	properties["kind"] = schema{"type": "string", "enum": []any{kind}}
	// A definition has nothing about the metadata; the API server checks these.
	properties["metadata"] = schema{"type": "object", "additionalProperties": false,
		"required": []any{"name"}, "properties": schema{
			"name": schema{"type": "string"}, "namespace": schema{"type": "string"},
			"labels":      schema{"type": "object", "additionalProperties": schema{"type": "string"}},
			"annotations": schema{"type": "object", "additionalProperties": schema{"type": "string"}},
		}}
	root["required"] = []any{"apiVersion", "kind", "metadata", "spec"}
	return write(filepath.Join(dir, strings.ToLower(kind)+"-monitoring-v1.json"), source, root, nil)
}

// strict returns a copy that a validator of JSON Schema draft 4 reads: references stand alone, descriptions and
// Kubernetes' own keywords are gone, and an object that names its fields has no others.
func strict(s schema) schema {
	if reference, ok := s["$ref"].(string); ok {
		return schema{"$ref": reference}
	}
	if s["x-kubernetes-int-or-string"] == true || s["format"] == "int-or-string" {
		return schema{"type": []any{"integer", "string"}}
	}
	out := schema{}
	for key, value := range s {
		switch {
		case key == "description" || key == "default" || key == "format" || strings.HasPrefix(key, "x-"):
		case key == "properties":
			properties := schema{}
			for name, property := range value.(schema) {
				properties[name] = strict(property.(schema))
			}
			out[key] = properties
		case key == "items" || key == "additionalProperties":
			out[key] = value
			if inner, ok := value.(schema); ok {
				out[key] = strict(inner)
			}
		default:
			out[key] = value
		}
	}
	// A quantity is written by people as a number as well.
	if description, _ := s["description"].(string); out["type"] == "string" &&
		strings.HasPrefix(description, "Quantity is a fixed-point") {
		out["type"] = []any{"string", "number"}
	}
	if out["properties"] != nil && out["additionalProperties"] == nil &&
		s["x-kubernetes-preserve-unknown-fields"] != true {
		out["additionalProperties"] = false
	}
	return out
}

// references are the names of all definitions that a schema refers to.
func references(value any) []string {
	var found []string
	switch v := value.(type) {
	case schema:
		if reference, ok := v["$ref"].(string); ok {
			found = append(found, strings.TrimPrefix(reference, "#/definitions/"))
		}
		for _, inner := range v {
			found = append(found, references(inner)...)
		}
	case []any:
		for _, inner := range v {
			found = append(found, references(inner)...)
		}
	}
	return found
}

// write writes a schema as one file, sorted, so that a new version shows what it changes.
func write(file, source string, root schema, definitions map[string]schema) error {
	root["$comment"] = "Made by tools/charts/schemas from " + source + ". Do not edit."
	if len(definitions) > 0 {
		root["definitions"] = definitions
	}
	encoded, err := json.MarshalIndent(root, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // part of a repository
		return err
	}
	return os.WriteFile(file, append(encoded, '\n'), 0o644) //nolint:gosec // part of a repository
}
