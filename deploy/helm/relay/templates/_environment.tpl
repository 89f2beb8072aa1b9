{{/* A text as a variable's value, so that it reaches the program as it is: Kubernetes replaces $(NAME) in values, and takes $$ for $. */}}
{{- define "relay.literal" -}}
{{- . | replace "$" "$$" -}}
{{- end -}}

{{/* The container's environment: one line for each value that is set; the rest is left to the program's defaults. */}}
{{- define "relay.environment" -}}
{{- $external := ne .Values.nats.url "" -}}
{{- $secrets := "/run/secrets/relay" -}}
{{- $env := list -}}
{{- range $pair := list
  (list "RELAY_HTTP_ADDR" (printf ":%d" (int .Values.ports.api)))
  (list "RELAY_METRICS_ADDR" (printf ":%d" (int .Values.ports.metrics)))
  (list "RELAY_PUBLIC_URL" .Values.publicUrl)
  (list "RELAY_TRUSTED_PROXIES" (join "," .Values.trustedProxies))
  (list "RELAY_CONSENT_RETURN_ORIGINS" (join "," .Values.consent.returnOrigins))
  (list "RELAY_ADMIN_TOKEN_FILE" (ternary (printf "%s/admin-token" $secrets) "" (ne .Values.secrets.adminToken.secretName "")))
  (list "RELAY_ADMIN_TOKENS_FILE" (ternary (printf "%s/admin-tokens" $secrets) "" (ne .Values.secrets.adminTokens.secretName "")))
  (list "RELAY_METRICS_TOKEN_FILE" (ternary (printf "%s/metrics-token" $secrets) "" (ne .Values.secrets.metricsToken.secretName "")))
  (list "RELAY_LOG_LEVEL" .Values.log.level)
  (list "RELAY_LOG_FORMAT" .Values.log.format)
  (list "RELAY_SHUTDOWN_GRACE" .Values.shutdownGrace)
  (list "RELAY_DATA_DIR" (ternary "" "/var/lib/relay" $external))
  (list "RELAY_STORAGE_SYNC" (ternary "" .Values.storage.sync $external))
  (list "RELAY_RETENTION" .Values.retention)
  (list "RELAY_NATS_URL" .Values.nats.url)
  (list "RELAY_NATS_PREFIX" .Values.nats.prefix)
  (list "RELAY_STREAM_REPLICAS" (include "relay.whole" .Values.nats.streamReplicas))
  (list "RELAY_NATS_CREDS" (ternary (printf "%s/nats.creds" $secrets) "" (ne .Values.nats.auth.credsKey "")))
  (list "RELAY_NATS_PASSWORD_FILE" (ternary (printf "%s/nats-password" $secrets) "" (ne .Values.nats.auth.passwordKey "")))
  (list "RELAY_NATS_CA" (ternary (printf "%s/nats-ca.crt" $secrets) "" (ne .Values.nats.tls.caKey "")))
  (list "RELAY_NATS_CERT" (ternary (printf "%s/nats.crt" $secrets) "" (ne .Values.nats.tls.certKey "")))
  (list "RELAY_NATS_KEY" (ternary (printf "%s/nats.key" $secrets) "" (ne .Values.nats.tls.keyKey "")))
  (list "RELAY_NATS_LISTEN" (ternary (printf ":%d" (int .Values.storage.subscribers.port)) "" .Values.storage.subscribers.enabled))
  (list "RELAY_NATS_LISTEN_CERT" (ternary (printf "%s/subscribers.crt" $secrets) "" (ne .Values.storage.subscribers.tls.secretName "")))
  (list "RELAY_NATS_LISTEN_KEY" (ternary (printf "%s/subscribers.key" $secrets) "" (ne .Values.storage.subscribers.tls.secretName "")))
  (list "RELAY_ENCRYPTION_KEYS_FILE" (ternary (printf "%s/keyset.json" $secrets) "" (ne .Values.secrets.encryptionKeys.secretName "")))
  (list "RELAY_AUDATEX_BASE_URL" .Values.audatex.baseUrl)
  (list "RELAY_AUDATEX_AUTH_URL" .Values.audatex.authUrl)
  (list "RELAY_AUDATEX_TOKEN_URL" .Values.audatex.tokenUrl)
  (list "RELAY_AUDATEX_CLIENT_ID" .Values.audatex.clientId)
  (list "RELAY_AUDATEX_CLIENT_SECRET_FILE" (printf "%s/client-secret" $secrets))
  (list "RELAY_AUDATEX_AUTH_STYLE" .Values.audatex.authStyle)
  (list "RELAY_AUDATEX_SCOPES" (join "," .Values.audatex.scopes))
  (list "RELAY_AUDATEX_PKCE" (index (dict "true" "on" "false" "off" "on" "on" "off" "off" "" "") (toString .Values.audatex.pkce)))
  (list "RELAY_AUDATEX_TOPIC" .Values.audatex.topic)
  (list "RELAY_AUDATEX_TIMEZONE" .Values.audatex.timezone)
  (list "RELAY_AUDATEX_RATE" (include "relay.whole" .Values.audatex.rate))
  (list "RELAY_POLL_INTERVAL" .Values.audatex.pollInterval)
  (list "RELAY_POLL_SOONER" .Values.audatex.pollSooner)
  (list "RELAY_POLL_SOONER_FOR" .Values.audatex.pollSoonerFor)
  (list "RELAY_NIGHTLY_RECONCILE" .Values.audatex.nightlyReconcile)
  (list "RELAY_AUDATEX_TIMEOUT" .Values.audatex.timeout)
  (list "RELAY_RETRY_SCHEDULE" (join "," .Values.callbacks.retrySchedule))
  (list "RELAY_CALLBACK_ALLOW_CIDRS" (join "," .Values.callbacks.allowCidrs))
  (list "RELAY_CALLBACK_PROXY" .Values.callbacks.proxy)
  (list "RELAY_CALLBACK_CA_FILE" (ternary (printf "%s/callback-ca.crt" $secrets) "" (or (ne .Values.callbacks.ca.configMapName "") (ne .Values.callbacks.ca.secretName ""))))
-}}
{{- $value := index $pair 1 | toString -}}
{{- if ne $value "" -}}
{{- $env = append $env (dict "name" (index $pair 0) "value" (include "relay.literal" $value)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.nats.auth.userKey -}}
{{- $env = append $env (dict "name" "RELAY_NATS_USER" "valueFrom" (dict "secretKeyRef" (dict "name" .Values.nats.auth.secretName "key" .Values.nats.auth.userKey))) -}}
{{- end -}}
{{- with (.Values.resources.limits | default dict).memory -}}
{{- $env = append $env (dict "name" "GOMEMLIMIT" "value" (include "relay.memoryLimit" .)) -}}
{{- end -}}
{{- $taken := dict -}}
{{- range $env -}}{{- $_ := set $taken .name true -}}{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasKey $taken .name -}}
{{- fail (printf "extraEnv: %s is set by the chart: use its own value" .name) -}}
{{- end -}}
{{- $variable := . -}}
{{- with .value -}}{{- $variable = merge (dict "value" (include "relay.literal" .)) $variable -}}{{- end -}}
{{- $env = append $env $variable -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* Files of all secrets that are named, in one directory, with the authorities of callbacks, which may be in a ConfigMap. */}}
{{- define "relay.secretSources" -}}
{{- $sources := list -}}
{{- range $source := list
  (list .Values.secrets.adminToken.secretName .Values.secrets.adminToken.key "admin-token")
  (list .Values.secrets.adminTokens.secretName .Values.secrets.adminTokens.key "admin-tokens")
  (list .Values.secrets.metricsToken.secretName .Values.secrets.metricsToken.key "metrics-token")
  (list .Values.secrets.audatexClientSecret.secretName .Values.secrets.audatexClientSecret.key "client-secret")
  (list .Values.secrets.encryptionKeys.secretName .Values.secrets.encryptionKeys.key "keyset.json")
  (list .Values.nats.auth.secretName .Values.nats.auth.credsKey "nats.creds")
  (list .Values.nats.auth.secretName .Values.nats.auth.passwordKey "nats-password")
  (list .Values.nats.tls.secretName .Values.nats.tls.caKey "nats-ca.crt")
  (list .Values.nats.tls.secretName .Values.nats.tls.certKey "nats.crt")
  (list .Values.nats.tls.secretName .Values.nats.tls.keyKey "nats.key")
  (list .Values.storage.subscribers.tls.secretName "tls.crt" "subscribers.crt")
  (list .Values.storage.subscribers.tls.secretName "tls.key" "subscribers.key")
  (list .Values.callbacks.ca.secretName .Values.callbacks.ca.key "callback-ca.crt")
-}}
{{- if and (index $source 0) (index $source 1) -}}
{{- $item := dict "key" (index $source 1) "path" (index $source 2) -}}
{{- $sources = append $sources (dict "secret" (dict "name" (index $source 0) "items" (list $item))) -}}
{{- end -}}
{{- end -}}
{{- with .Values.callbacks.ca.configMapName -}}
{{- $item := dict "key" $.Values.callbacks.ca.key "path" "callback-ca.crt" -}}
{{- $sources = append $sources (dict "configMap" (dict "name" . "items" (list $item))) -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}
