{{/* The name of what this is. */}}
{{- define "wstap.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of this release of it. */}}
{{- define "wstap.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "wstap.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects the pods. It never changes in the life of a DaemonSet. */}}
{{- define "wstap.selectorLabels" -}}
app.kubernetes.io/name: {{ include "wstap.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wstap.labels" -}}
{{ include "wstap.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "wstap.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "wstap.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "wstap.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Address and port that the agent listens on; Kubernetes puts the node's address in. */}}
{{- define "wstap.listen" -}}
{{- $port := int .Values.listen.port }}
{{- if .Values.listen.address }}
{{- printf "%s:%d" .Values.listen.address $port }}
{{- else if .Values.listen.ipv6 }}
{{- printf "[$(NODE_IP)]:%d" $port }}
{{- else }}
{{- printf "$(NODE_IP):%d" $port }}
{{- end }}
{{- end }}

{{/* Where the kubelet asks: at the pod's address, which is the node's, unless the agent is on loopback alone. */}}
{{- define "wstap.probeHost" -}}
{{- if hasPrefix "127." .Values.listen.address }}
host: {{ .Values.listen.address }}
{{- else if eq "[::1]" .Values.listen.address }}
host: "::1"
{{- end }}
{{- end }}

{{/* on, off or auto; what is not quoted YAML reads as true and false. */}}
{{- define "wstap.when" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The agent's --config file. What JSON writes of a string, a number, a truth or a list is TOML as well. */}}
{{- define "wstap.config" -}}
{{- range $flag, $value := .Values.config }}
{{- if eq $flag "connections-endpoint" }}
{{ $flag }} = {{ include "wstap.when" $value | toJson }}
{{- else }}
{{ $flag }} = {{ toJson $value }}
{{- end }}
{{- end }}
kubernetes = {{ include "wstap.when" .Values.kubernetes.mode | toJson }}
{{- if .Values.kubernetes.services }}
kubernetes-services = true
{{- end }}
{{- with .Values.netns }}
netns = {{ toJson . }}
{{- end }}
{{- end }}
