{{/* Labels of everything the chart makes. Takes the chart's scope. */}}
{{- define "crank-agent.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ default .Chart.Name .Values.nameOverride }}
{{- end }}

{{/* Labels that select the CA's pods. */}}
{{- define "crank-agent.caSelector" -}}
app.kubernetes.io/name: crank-ca
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `scope` and `image`. */}}
{{- define "crank-agent.image" -}}
{{- $tag := default .scope.Chart.AppVersion .image.tag -}}
{{- with .image.digest }}{{ $.image.repository }}@{{ . }}{{ else }}{{ .image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{/* The host name by which the whole cluster reaches the CA. */}}
{{- define "crank-agent.caHost" -}}
{{ .Values.ca.name }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "crank-agent.caUrl" -}}
{{- if .Values.agent.caUrl -}}
{{ .Values.agent.caUrl }}
{{- else if .Values.ca.enabled -}}
https://{{ include "crank-agent.caHost" . }}:{{ .Values.ca.service.port }}
{{- else -}}
{{ fail "agent.caUrl: expected the URL of the CA, as ca.enabled is false" }}
{{- end -}}
{{- end }}

{{/* What the restricted profile of pod security asks of a container, and a file system that is read only. */}}
{{- define "crank-agent.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}
