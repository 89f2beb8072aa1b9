{{/* The pod, the same for both kinds of storage. */}}
{{- define "relay.pod" -}}
{{- $external := ne .Values.nats.url "" -}}
metadata:
  labels:
    {{- include "relay.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "relay.serviceAccount" . | quote }}
  # The relay never calls the Kubernetes API.
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Five seconds more than the relay gives itself: what it stores at the end is not cut off.
  terminationGracePeriodSeconds: {{ add (include "relay.seconds" .Values.shutdownGrace) 5 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    {{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
    {{- /* null takes the key away, and reading what is not there would come to 0, root. */}}
    {{- if hasKey $.Values.securityContext $key }}
    {{- with get $.Values.securityContext $key }}
    {{ $key }}: {{ int64 . }}
    {{- end }}
    {{- end }}
    {{- end }}
    # A large store is not walked through at every start.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: relay
      image: {{ include "relay.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      securityContext:
        allowPrivilegeEscalation: false
        privileged: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        {{- include "relay.environment" . | nindent 8 }}
      ports:
        - name: api
          containerPort: {{ .Values.ports.api }}
        - name: metrics
          containerPort: {{ .Values.ports.metrics }}
        {{- if .Values.storage.subscribers.enabled }}
        - name: nats
          containerPort: {{ .Values.storage.subscribers.port }}
        {{- end }}
      {{- range $probe, $path := dict "startup" "/livez" "liveness" "/livez" "readiness" "/readyz" }}
      {{ $probe }}Probe:
        httpGet:
          path: {{ $path }}
          port: api
        {{- with get $.Values.probes $probe }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- if $external }}
      # A pod leaves its Service while it is told to stop already, and an idle relay is gone within a tenth of a second: until everybody sends
      # requests to the others it goes on.
      lifecycle:
        preStop:
          sleep:
            seconds: 2
      {{- end }}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: secrets
          mountPath: /run/secrets/relay
          readOnly: true
        {{- if not $external }}
        - name: data
          mountPath: /var/lib/relay
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: secrets
      projected:
        # Read by the relay's group; owned by root.
        defaultMode: 0440
        sources:
          {{- include "relay.secretSources" . | nindent 10 }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- $constraints := .Values.topologySpreadConstraints }}
    {{- if not $constraints }}
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    {{- $constraint := dict "maxSkew" 1 "topologyKey" $key "whenUnsatisfiable" "ScheduleAnyway" }}
    {{- /* Only replicas of one revision are counted: those of the last are about to go. */}}
    {{- if $external }}{{ $_ := set $constraint "matchLabelKeys" (list "pod-template-hash") }}{{ end }}
    {{- $constraints = append $constraints $constraint }}
    {{- end }}
    {{- end }}
    {{- $selector := dict "labelSelector" (dict "matchLabels" (include "relay.selector" . | fromYaml)) }}
    {{- range $constraints }}
    {{- merge (dict) . $selector | list | toYaml | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
