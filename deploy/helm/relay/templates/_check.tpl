{{/* What a schema cannot say well: how values go together, and what to do about it. */}}
{{- define "relay.check" -}}
{{- $external := ne .Values.nats.url "" -}}
{{- if not (or .Values.secrets.adminToken.secretName .Values.secrets.adminTokens.secretName) -}}
{{- fail "secrets.adminToken.secretName or secrets.adminTokens.secretName is required: the Secret that holds the administrator's token, as made by: kubectl create secret generic relay --from-literal=admin-token=$(openssl rand -hex 24) --from-literal=client-secret=…" -}}
{{- end -}}
{{- if not .Values.secrets.audatexClientSecret.secretName -}}
{{- fail "secrets.audatexClientSecret.secretName is required: the Secret that holds the OAuth client secret given by the vendor" -}}
{{- end -}}
{{- if not .Values.audatex.clientId -}}
{{- fail "audatex.clientId is required: the OAuth client id given by the vendor" -}}
{{- end -}}
{{- if and $external (not .Values.secrets.encryptionKeys.secretName) -}}
{{- fail "secrets.encryptionKeys.secretName is required with nats.url: a keyset made once by `relay keys`, which all replicas share" -}}
{{- end -}}
{{- if and (not $external) (gt (int (include "relay.replicas" .)) 1) -}}
{{- fail (printf "replicas: %s want an external NATS (nats.url): the embedded storage belongs to one process" (include "relay.replicas" .)) -}}
{{- end -}}
{{- if and $external .Values.storage.subscribers.enabled -}}
{{- fail "storage.subscribers.enabled is for the embedded storage; with nats.url subscribers go to that NATS" -}}
{{- end -}}
{{- if and .Values.storage.subscribers.tls.secretName (not .Values.storage.subscribers.enabled) -}}
{{- fail "storage.subscribers.tls.secretName is given, and there are no subscribers: set storage.subscribers.enabled" -}}
{{- end -}}
{{- if and .Values.callbacks.ca.configMapName .Values.callbacks.ca.secretName -}}
{{- fail "callbacks.ca names a ConfigMap and a Secret: name one of them" -}}
{{- end -}}
{{- with .Values.nats.auth -}}
{{- if and .secretName (not .credsKey) (not .userKey) -}}
{{- fail "nats.auth.secretName is given without a key: name credsKey, or userKey and passwordKey" -}}
{{- end -}}
{{- if and (or .credsKey .userKey .passwordKey) (not .secretName) -}}
{{- fail "nats.auth names a key but no secretName" -}}
{{- end -}}
{{- if and .credsKey (or .userKey .passwordKey) -}}
{{- fail "nats.auth names credsKey as well as userKey or passwordKey: give a credentials file or user and password" -}}
{{- end -}}
{{- if ne (empty .userKey) (empty .passwordKey) -}}
{{- fail "nats.auth.userKey and nats.auth.passwordKey go together" -}}
{{- end -}}
{{- end -}}
{{- with .Values.nats.tls -}}
{{- if and .secretName (not .caKey) (not .certKey) -}}
{{- fail "nats.tls.secretName is given without a key: name caKey, or certKey and keyKey" -}}
{{- end -}}
{{- if and (or .caKey .certKey .keyKey) (not .secretName) -}}
{{- fail "nats.tls names a key but no secretName" -}}
{{- end -}}
{{- if ne (empty .certKey) (empty .keyKey) -}}
{{- fail "nats.tls.certKey and nats.tls.keyKey go together" -}}
{{- end -}}
{{- end -}}
{{- if and (not $external) (or .Values.nats.auth.secretName .Values.nats.tls.secretName .Values.nats.streamReplicas) -}}
{{- fail "nats.auth, nats.tls and nats.streamReplicas are for an external NATS: give nats.url" -}}
{{- end -}}
{{- range $name := list "api" "consent" -}}
{{- $ingress := get $.Values.ingress $name -}}
{{- if and $ingress.enabled (not $ingress.host) -}}
{{- fail (printf "ingress.%s.host is required: the name under which it is reached from outside" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.consent.enabled (not .Values.publicUrl) -}}
{{- fail "publicUrl is required with ingress.consent: consent links and the address the vendor sends its users back to begin with it" -}}
{{- end -}}
{{- if eq (int .Values.ports.api) (int .Values.ports.metrics) -}}
{{- fail "ports.api and ports.metrics must differ" -}}
{{- end -}}
{{- with .Values.storage.subscribers -}}
{{- if and .enabled (has (int .port) (list (int $.Values.ports.api) (int $.Values.ports.metrics))) -}}
{{- fail "storage.subscribers.port must differ from ports.api and ports.metrics" -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraVolumes -}}
{{- if has .name (ternary (list "secrets") (list "secrets" "data") $external) -}}
{{- fail (printf "extraVolumes: %s is a volume of the chart's own" .name) -}}
{{- end -}}
{{- end -}}
{{- $labels := include "relay.labels" . | fromYaml -}}
{{- range $value, $given := dict "podLabels" .Values.podLabels "serviceMonitor.labels" .Values.serviceMonitor.labels "prometheusRule.labels" .Values.prometheusRule.labels "dashboards.labels" .Values.dashboards.labels -}}
{{- range $name, $_ := $given -}}
{{- if hasKey $labels $name -}}
{{- fail (printf "%s: %s is set by the chart, which finds its pods by such labels" $value $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $grace := include "relay.seconds" .Values.shutdownGrace | int -}}
{{- if gt $grace 3600 -}}
{{- fail (printf "shutdownGrace: %s is above 1h, the most that the relay takes" .Values.shutdownGrace) -}}
{{- end -}}
{{- end -}}
