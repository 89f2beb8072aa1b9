{{- define "relay.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "relay.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "relay.selector" -}}
app.kubernetes.io/name: {{ include "relay.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (.Values.image.tag | default .Chart.AppVersion | trunc 63) "" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "relay.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "relay.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "relay.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 3 1 (ne .Values.nats.url "") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/* A number's digits; nothing for null. Values are floats by the time a template sees them: a million would read 1e+06. */}}
{{- define "relay.whole" -}}
{{- if not (kindIs "invalid" .) -}}{{- int64 . -}}{{- end -}}
{{- end -}}

{{/* Whole seconds of a duration as values.schema.json admits it: 1h2m3s, each part optional. */}}
{{- define "relay.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- /* Without leading zeros, which would make it octal. */ -}}
{{- $number := regexFind "[1-9][0-9]*" . | default "0" | int -}}
{{- $seconds = add $seconds (mul $number (get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* Nine tenths of a memory quantity in whole MiB: what Go may use before it collects harder. The rest is for what Go does not count:
     mapped files, stacks of the kernel. */}}
{{- define "relay.memoryLimit" -}}
{{- $quantity := . -}}
{{- if not (kindIs "string" .) -}}{{- $quantity = include "relay.whole" . -}}{{- end -}}
{{- $number := regexFind "^[0-9]+" $quantity | int64 -}}
{{- $factor := get (dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824) (regexFind "[A-Za-z]*$" $quantity) | int64 -}}
{{- div (mul $number $factor 9) 10485760 -}}MiB
{{- end -}}

{{/* Port of an address: the one that it names, or its scheme's. (list ADDRESS SCHEME), the scheme of an address without one. */}}
{{- define "relay.port" -}}
{{- $address := index . 0 | trim -}}
{{- $scheme := regexFind "^[A-Za-z0-9]+://" $address | trimSuffix "://" | lower | default (index . 1) -}}
{{- $host := regexReplaceAll "^([A-Za-z0-9]+://)?([^/?#]*@)?" $address "" | regexFind "^[^/?#]*" -}}
{{- /* What stands behind the colon of a port, and not in an IPv6 address, which ends with a bracket. */ -}}
{{- $defaults := dict "http" "80" "https" "443" "ws" "80" "wss" "443" "socks5" "1080" "socks5h" "1080" -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (get $defaults $scheme) | default "4222" -}}
{{- end -}}

{{/* Ports of the vendor's API and token endpoint, 443 always: receivers are there too. */}}
{{- define "relay.vendorPorts" -}}
{{- $ports := list 443 -}}
{{- range list .Values.audatex.baseUrl .Values.audatex.tokenUrl -}}
{{- if . }}{{ $ports = append $ports (include "relay.port" (list . "https") | int) }}{{ end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Ports of the proxies: the callbacks', and those that extraEnv names for the vendor's calls. */}}
{{- define "relay.proxyPorts" -}}
{{- $proxies := list -}}
{{- with .Values.callbacks.proxy }}{{ $proxies = append $proxies . }}{{ end -}}
{{- range .Values.extraEnv -}}
{{- if and (has (upper .name) (list "HTTPS_PROXY" "HTTP_PROXY")) .value }}{{ $proxies = append $proxies .value }}{{ end -}}
{{- end -}}
{{- $ports := list -}}
{{- range $proxies }}{{ $ports = append $ports (include "relay.port" (list . "http") | int) }}{{ end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Ports of the servers in nats.url, where none is named as the client reads it. */}}
{{- define "relay.natsPorts" -}}
{{- $ports := list -}}
{{- range splitList "," .Values.nats.url -}}
{{- $ports = append $ports (include "relay.port" (list . "nats") | int) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
