{{/* What the containers of the CA have in common. */}}
{{- define "crank-agent.caContainer" -}}
env:
  - { name: CRANK_CA_CONFIG, value: /etc/crank-ca/settings/crank-ca.toml }
  # Below the volume, to which its group may write. Here too, as an image may name another.
  - { name: CRANK_CA_DATA_DIR, value: /var/lib/crank-ca/data }
resources: {{- toYaml .Values.ca.resources | nindent 2 }}
securityContext: {{- include "crank-agent.containerSecurity" . | nindent 2 }}
volumeMounts:
  - { name: data, mountPath: /var/lib/crank-ca }
  - { name: tmp, mountPath: /tmp }
  - { name: settings, mountPath: /etc/crank-ca/settings, readOnly: true }
  {{- if or .Values.ca.kubernetes.enabled .Values.ca.kubernetesSigner.enabled }}
  - { name: kubernetes, mountPath: /var/run/crank-ca/kubernetes, readOnly: true }
  {{- end }}
  {{- range $index, $secret := .Values.ca.authority.secrets }}
  - { name: authority-{{ $index }}, mountPath: /var/run/crank-ca/authority-{{ $index }}, readOnly: true }
  {{- end }}
  {{- if .Values.ca.authority.passphrase }}
  - { name: passphrase, mountPath: /var/run/crank-ca/passphrase, readOnly: true }
  {{- end }}
  {{- if and .Values.ca.postgres.enabled .Values.ca.postgres.password }}
  - { name: database-password, mountPath: /var/run/crank-ca/database-password, readOnly: true }
  {{- end }}
  {{- if and .Values.ca.postgres.enabled .Values.ca.postgres.roots }}
  - { name: database-roots, mountPath: /var/run/crank-ca/database-roots, readOnly: true }
  {{- end }}
  {{- range .Values.ca.extraVolumes }}
  - { name: {{ .name }}, mountPath: /etc/crank-ca/{{ .name }}, readOnly: true }
  {{- end }}
{{- end }}

{{- define "crank-agent.caVolumes" -}}
{{- if .Values.ca.postgres.enabled -}}
# The keys come from secrets at each start, and stay in memory.
- name: data
  emptyDir: { medium: Memory, sizeLimit: 16Mi }
{{ end -}}
- name: tmp
  emptyDir: { sizeLimit: 256Mi }
- name: settings
  configMap: { name: {{ .Values.ca.name }} }
{{- if or .Values.ca.kubernetes.enabled .Values.ca.kubernetesSigner.enabled }}
# To read the keys with which the cluster signs tokens, and to sign its requests.
- name: kubernetes
  projected:
    sources:
      - serviceAccountToken: { expirationSeconds: 3600, path: token }
      - configMap: { name: kube-root-ca.crt, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
{{- range $index, $secret := .Values.ca.authority.secrets }}
- name: authority-{{ $index }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
    items:
      - { key: tls.crt, path: tls.crt }
      - { key: tls.key, path: tls.key }
      - { key: ca.crt, path: ca.crt }
{{- end }}
{{- with .Values.ca.authority.passphrase }}
- name: passphrase
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items: [{ key: {{ .key }}, path: passphrase }]
{{- end }}
{{- if .Values.ca.postgres.enabled }}
{{- with .Values.ca.postgres.password }}
- name: database-password
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items: [{ key: {{ .key }}, path: password }]
{{- end }}
{{- with .Values.ca.postgres.roots }}
- name: database-roots
  configMap:
    name: {{ .name }}
    items: [{ key: {{ .key }}, path: roots.pem }]
{{- end }}
{{- end }}
{{- with .Values.ca.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
