{{/*
The parts of a worker's pod. Each takes the scope of this chart: `.` in it, `.Subcharts.crank-agent`'s in a chart that
depends on it, as in
  {{ include "crank-agent.sidecar" (index .Subcharts "crank-agent") | nindent 8 }}
*/}}

{{/* An init container that goes on beside the worker; the worker starts once there is a certificate. */}}
{{- define "crank-agent.sidecar" -}}
- name: crank-agent
  image: {{ include "crank-agent.image" (dict "scope" . "image" .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [run]
  restartPolicy: Always
  env: {{- include "crank-agent.env" . | nindent 4 }}
  ports:
    - { name: crank-probes, containerPort: {{ .Values.agent.port }}, protocol: TCP }
  # Nothing is served before the first certificate, so the first question goes by the socket.
  startupProbe:
    exec: { command: [crank-agent, health] }
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 120
  readinessProbe:
    httpGet: { path: /readyz, port: crank-probes, scheme: HTTPS }
    periodSeconds: 10
    timeoutSeconds: 5
  livenessProbe:
    httpGet: { path: /livez, port: crank-probes, scheme: HTTPS }
    periodSeconds: 20
    timeoutSeconds: 5
  resources: {{- toYaml .Values.agent.resources | nindent 4 }}
  securityContext: {{- include "crank-agent.containerSecurity" . | nindent 4 }}
  volumeMounts: {{- include "crank-agent.agentMounts" . | nindent 4 }}
{{- end }}

{{/* An init container that obtains a certificate once, for jobs that end before it does. */}}
{{- define "crank-agent.init" -}}
- name: crank-agent
  image: {{ include "crank-agent.image" (dict "scope" . "image" .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [init]
  env: {{- include "crank-agent.env" . | nindent 4 }}
  resources: {{- toYaml .Values.agent.resources | nindent 4 }}
  securityContext: {{- include "crank-agent.containerSecurity" . | nindent 4 }}
  volumeMounts: {{- include "crank-agent.agentMounts" . | nindent 4 }}
{{- end }}

{{/* The worker is named by namespace and service account, as the CA reads them in the token. */}}
{{- define "crank-agent.env" -}}
- { name: POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
- { name: POD_SERVICE_ACCOUNT, valueFrom: { fieldRef: { fieldPath: spec.serviceAccountName } } }
- { name: SERVICE_NAME, value: $(POD_NAMESPACE).$(POD_SERVICE_ACCOUNT) }
- { name: CA_SERVICE_URL, value: {{ include "crank-agent.caUrl" . | quote }} }
- { name: CERT_DIR, value: {{ .Values.agent.certDir }} }
- { name: CRANK_CA_TOKEN_FILE, value: /var/run/crank/token }
- { name: CRANK_CA_ROOT_FILE, value: /var/run/crank/ca.crt }
- { name: CRANK_IDENTITY_TRUST_DOMAIN, value: {{ .Values.trustDomain }} }
- { name: CRANK_FILES_GROUP, value: {{ .Values.agent.group | int | quote }} }
- { name: CRANK_SERVER_LISTEN, value: "0.0.0.0:{{ .Values.agent.port | int }}" }
{{- with .Values.agent.names }}
- { name: CRANK_IDENTITY_NAMES, value: {{ join "," . | quote }} }
{{- end }}
{{- with .Values.agent.metricsAllow }}
- { name: CRANK_SERVER_METRICS_ALLOW, value: {{ join "," . | quote }} }
{{- end }}
{{- with .Values.agent.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "crank-agent.agentMounts" -}}
- { name: crank-certs, mountPath: {{ .Values.agent.certDir }} }
- { name: crank-credentials, mountPath: /var/run/crank, readOnly: true }
{{- end }}

{{/* The worker's mount. */}}
{{- define "crank-agent.volumeMount" -}}
- { name: crank-certs, mountPath: {{ .Values.agent.certDir }}, readOnly: true }
{{- end }}

{{/* The pod's volumes: certificates in memory; a token that only the CA takes, and the roots that verify the CA. */}}
{{- define "crank-agent.volumes" -}}
- name: crank-certs
  emptyDir: { medium: Memory, sizeLimit: 64Mi }
- name: crank-credentials
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ .Values.audience }}
          expirationSeconds: {{ .Values.agent.tokenExpirationSeconds | int }}
          path: token
      {{- if .Values.trust.clusterTrustBundle.enabled }}
      - clusterTrustBundle: { name: {{ .Values.trust.clusterTrustBundle.name }}, path: ca.crt }
      {{- else }}
      - configMap:
          name: {{ .Values.trust.configMap.name }}
          items: [{ key: {{ .Values.trust.configMap.key }}, path: ca.crt }]
      {{- end }}
{{- end }}

{{/* Goes into the pod's securityContext: agent and worker share a group. */}}
{{- define "crank-agent.podSecurity" -}}
fsGroup: {{ .Values.agent.group | int }}
{{- end }}

{{/* A label by which Prometheus finds the agent. */}}
{{- define "crank-agent.podLabels" -}}
crank-agent/metrics: "true"
{{- end }}
