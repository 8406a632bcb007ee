{{/* A value as a CEL expression; a text that begins with `cel:` is one already. */}}
{{- define "crank-agent.cel" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha -}}
{{- if $index }}, {{ end }}'{{ $key }}': dyn({{ include "crank-agent.cel" (get $ $key) }})
{{- end -}} }
{{- else if kindIs "slice" . -}}
[ {{- range $index, $item := . -}}
{{- if $index }}, {{ end }}dyn({{ include "crank-agent.cel" $item }})
{{- end -}} ]
{{- else if kindIs "string" . -}}
{{- if hasPrefix "cel:" . }}{{ trimPrefix "cel:" . }}{{ else }}{{ toJson . }}{{ end }}
{{- else if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}

{{/* The container of the template `name`, with what depends on the pod left to the policy. Takes a dict of `scope`, `name`. */}}
{{- define "crank-agent.celContainer" -}}
{{- $container := first (include .name .scope | fromYamlArray) -}}
{{- $env := list -}}
{{- range $container.env -}}
{{- if eq .name "CRANK_FILES_GROUP" -}}
{{- $env = append $env (dict "name" .name "value" "cel:string(variables.group)") -}}
{{- else if ne .name "CRANK_IDENTITY_NAMES" -}}
{{- $env = append $env . -}}
{{- end -}}
{{- end -}}
{{- $names := dict "name" "CRANK_IDENTITY_NAMES" "value" "cel:variables.names" -}}
{{- $all := printf "cel:%s + (variables.names == '' ? [] : [dyn(%s)])" (include "crank-agent.cel" $env) (include "crank-agent.cel" $names) -}}
{{ include "crank-agent.cel" (set $container "env" $all) }}
{{- end }}

{{- define "crank-agent.celMounts" -}}
{{- $mount := first (include "crank-agent.volumeMount" .scope | fromYamlArray) -}}
object.spec.?{{ .list }}.orValue([]).transformList(i, c, !has(c.volumeMounts),
  JSONPatch{op: "add", path: "/spec/{{ .list }}/" + string(i) + "/volumeMounts", value: []})
+ object.spec.?{{ .list }}.orValue([]).transformList(i, c, !c.?volumeMounts.orValue([]).exists(m, m.name == "crank-certs"),
  JSONPatch{op: "add", path: "/spec/{{ .list }}/" + string(i) + "/volumeMounts/-", value: {{ include "crank-agent.cel" $mount }}})
{{- end }}

{{- define "crank-agent.celPatch" -}}
{{ include "crank-agent.celMounts" (dict "scope" . "list" "containers") }}
+ {{ include "crank-agent.celMounts" (dict "scope" . "list" "initContainers") }}
+ (has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}])
+ [JSONPatch{op: "add", path: "/spec/initContainers/0",
    value: variables.how == "init" ? dyn(variables.init) : dyn(variables.sidecar)}]
+ (has(object.spec.volumes) ? [] : [JSONPatch{op: "add", path: "/spec/volumes", value: []}])
{{- range include "crank-agent.volumes" . | fromYamlArray }}
+ [JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ include "crank-agent.cel" . }}}]
{{- end }}
+ (has(object.spec.securityContext) ? [] : [JSONPatch{op: "add", path: "/spec/securityContext", value: {}}])
+ [JSONPatch{op: "add", path: "/spec/securityContext/fsGroup", value: variables.group}]
+ (has(object.metadata.labels) ? [] : [JSONPatch{op: "add", path: "/metadata/labels", value: {}}])
+ [JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("crank-agent/metrics"), value: variables.how == "init" ? "false" : "true"}]
{{- end }}
