{{/* The settings file of crank-ca. */}}
{{- define "crank-agent.caSettings" -}}
{{- $ca := .Values.ca -}}
{{- $host := include "crank-agent.caHost" . -}}
{{- $names := concat (list $ca.name (printf "%s.%s" $ca.name .Release.Namespace) $host (printf "%s.%s" $host .Values.clusterDomain) "localhost") $ca.extraNames -}}
# crank-ca.toml
data_dir = "/var/lib/crank-ca/data"
listen = "0.0.0.0:9090"
names = {{ toJson $names }}
lifetime = {{ $ca.lifetime | quote }}
environment = {{ $ca.environment | quote }}
{{- if $ca.authority.passphrase }}

[keys]
passphrase_file = "/var/run/crank-ca/passphrase/passphrase"
{{- end }}
{{- with $ca.postgres }}
{{- if .enabled }}

[database]
url = {{ .url | quote }}
max_connections = {{ .maxConnections | int }}
{{- if .password }}
password_file = "/var/run/crank-ca/database-password/password"
{{- end }}
{{- if .roots }}
root_file = "/var/run/crank-ca/database-roots/roots.pem"
{{- end }}
{{- end }}
{{- end }}
{{- with $ca.kubernetes }}
{{- if .enabled }}

[[issuers]]
kind = "kubernetes"
issuer = {{ .issuer | quote }}
audience = {{ $.Values.audience | quote }}
jwks_url = {{ .jwksUrl | quote }}
root_file = "/var/run/crank-ca/kubernetes/ca.crt"
token_file = "/var/run/crank-ca/kubernetes/token"
identity = {{ .identity | quote }}
{{- with .names }}
names = {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}
{{- if $ca.kubernetesSigner.enabled }}

[kubernetes]
signer_name = {{ $ca.kubernetesSigner.signerName | quote }}
requests = {{ toJson $ca.kubernetesSigner.requests }}
identity = {{ $ca.kubernetes.identity | quote }}
names = {{ toJson $ca.kubernetes.names }}
root_file = "/var/run/crank-ca/kubernetes/ca.crt"
token_file = "/var/run/crank-ca/kubernetes/token"
{{- end }}
{{- with $ca.settings }}

{{ . | trim }}
{{- end }}
{{- end }}
